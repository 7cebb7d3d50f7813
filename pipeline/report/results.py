"""The parts of the report about what the model scored: bits per byte, multiple choice."""

import math

from eval.manifests import Accuracy, MultipleChoice, Scores
from pipeline.report.charts import Bar, Reference, bar_chart
from pipeline.report.markup import NOTHING, Html, element, section, table
from pipeline.report.sections import figure, split

_Z = 1.959964
"""The quantile of the normal distribution with 2.5% above it."""


def wilson(*, num_right: int, num_questions: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson, JASA 22, 1927); 0..1 if nothing was asked."""
    if num_questions == 0:
        return 0.0, 1.0
    n, p = num_questions, num_right / num_questions
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def bits_section(scores: Scores) -> Html:
    """Show the bits per byte of each language, from the best to the worst."""
    ordered = sorted(scores.bits_per_byte.items(), key=lambda item: (item[1].bits_per_byte, item[0]))
    if not ordered:
        return section("bits", "Bits per byte by language", element("p", "No held-out document was scored."))
    bars = [Bar(lang, s.bits_per_byte, f"{s.bits_per_byte:.3f}", f"{s.num_documents:,}") for lang, s in ordered]
    charts = [
        bar_chart(
            run,
            title=f"Bits per byte, {run[0].label} to {run[-1].label}",
            heads=("bits", "docs"),
            maximum=bars[-1].value,
            reference=Reference("mean", scores.mean_bits_per_byte),
        )
        for run in split(bars)
    ]
    note = "Fewer is better. Over held-out documents; the mean counts every language the same."
    return section("bits", "Bits per byte by language", figure("", note, element("div", *charts, class_="side charts")))


def multiple_choice_section(task: MultipleChoice | None) -> Html:
    """Show right answers, overall and by language, with 95% intervals."""
    if task is None:
        return section("choice", "Multiple choice", element("p", "The recipe left this task out."))
    low, high = wilson(num_right=task.total.num_right, num_questions=task.total.num_questions)
    text = (
        f"Which of {round(1 / task.chance)} is the real text, and not its words in another order? "
        f"{task.total.num_right:,} of {task.total.num_questions:,} right, "
        f"{_share(task.total)} (95% interval {low:.1%} to {high:.1%}); chance gives {task.chance:.1%}. "
        f"{_compare_to_chance(low, high, task.chance)} Scored by lm-eval {task.lm_eval_version}."
    )
    heads = ("Language", "Right", "Accuracy", "95% interval")
    rows = [_answers(language, accuracy) for language, accuracy in sorted(task.by_language.items())]
    tables = [table(f"{run[0][0]} to {run[-1][0]}", heads, run) for run in split(rows)]
    return section("choice", "Multiple choice", element("p", text), element("div", *tables, class_="side"))


def _answers(language: str, accuracy: Accuracy) -> tuple[str, ...]:
    low, high = wilson(num_right=accuracy.num_right, num_questions=accuracy.num_questions)
    interval = f"{100 * low:.0f} to {100 * high:.0f}%"
    return language, f"{accuracy.num_right:,} of {accuracy.num_questions:,}", _share(accuracy), interval


def _share(accuracy: Accuracy) -> str:
    return f"{accuracy.accuracy:.1%}" if accuracy.num_questions else NOTHING


def _compare_to_chance(low: float, high: float, chance: float) -> str:
    if low > chance:
        return "The interval lies above chance."
    if high < chance:
        return "The interval lies below chance."
    return "The interval holds chance, so this does not show that the model does better."
