"""The parts of the report about the model: training, bits per byte, multiple choice."""

import math
from collections.abc import Sequence

from pydantic import JsonValue

from data_prep.manifests import TokenizedCorpus
from eval.manifests import Accuracy, MultipleChoice, Scores
from pipeline.charts import Bar, Reference, bar_chart, line_chart
from pipeline.markup import NOTHING, Html, element, facts, section, table
from pipeline.report_sections import figure, flatten, split
from training.manifests import TrainedModel
from training.metrics import StepMetrics

_Z = 1.959964
"""Quantile of the normal distribution that leaves 2.5% above."""


def training_seconds(metrics: Sequence[StepMetrics]) -> dict[str, float]:
    """Seconds of each part of a step, summed over steps."""
    names = dict.fromkeys(name for step in metrics for name in step.seconds)
    return {name: sum(step.seconds.get(name, 0.0) for step in metrics) for name in names}


def wilson(*, num_right: int, num_questions: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson, JASA 22, 1927): 0..1 if nothing was asked."""
    if num_questions == 0:
        return 0.0, 1.0
    n, p = num_questions, num_right / num_questions
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def training_section(
    model: TrainedModel, tokens: TokenizedCorpus, metrics: Sequence[StepMetrics], config: dict[str, JsonValue]
) -> Html:
    """Settings, the loss against what a model of no context would reach, learning rate and speed."""
    note = (
        "Dashed: the loss of the best model that ignores context (unigram entropy), and of one that finds every piece "
        "of the vocabulary equally likely (its logarithm). The number at the end is the last step's loss; the "
        "final loss is the mean of the last ten."
    )
    return section(
        "training",
        "Training",
        element("p", model.summary(), "."),
        figure("Loss", note, _loss(model, tokens, metrics)),
        element("div", *_small_charts(metrics), class_="side"),
        element("h3", "Settings"),
        facts(flatten(config), class_="facts settings"),
    )


def bits_section(scores: Scores) -> Html:
    """Bars sorted from the best to the worst language."""
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
    """Right answers overall and by language, with 95% intervals."""
    if task is None:
        return section("choice", "Multiple choice", element("p", "The recipe left this task out."))
    low, high = wilson(num_right=task.total.num_right, num_questions=task.total.num_questions)
    text = (
        f"Which of {round(1 / task.chance)} is the real text, and not its words in another order? "
        f"{task.total.num_right:,} of {task.total.num_questions:,} right, "
        f"{_share(task.total)} (95% interval {low:.1%} to {high:.1%}); chance gives {task.chance:.1%}. "
        f"{_verdict(low, high, task.chance)} Scored by lm-eval {task.lm_eval_version}."
    )
    heads = ("Language", "Right", "Accuracy", "95% interval")
    rows = [_answers(language, accuracy) for language, accuracy in sorted(task.by_language.items())]
    tables = [table(f"{run[0][0]} to {run[-1][0]}", heads, run) for run in split(rows)]
    return section("choice", "Multiple choice", element("p", text), element("div", *tables, class_="side"))


def _loss(model: TrainedModel, tokens: TokenizedCorpus, metrics: Sequence[StepMetrics]) -> Html:
    references = (
        Reference("ln(vocabulary)", math.log(tokens.vocab_size)),
        Reference("unigram entropy", model.unigram_entropy),
    )
    return line_chart(
        [(step.step, step.loss) for step in metrics],
        title=f"Loss by step, from {model.first_loss:.2f} to {model.final_loss:.2f} nats a token",
        x_label="step",
        y_label="nats a token",
        references=references,
        height=320,
    )


def _small_charts(metrics: Sequence[StepMetrics]) -> list[Html]:
    rate = [(step.step, step.learning_rate) for step in metrics]
    speed = [(step.step, step.tokens_per_second) for step in metrics]
    return [
        figure(name, "", line_chart(points, title=title, x_label="step", y_label=unit, from_zero=True, height=150))
        for name, title, unit, points in (
            ("Learning rate", "Learning rate by step", "", rate),
            ("Speed", "Tokens a second by step", "tokens a second", speed),
        )
    ]


def _answers(language: str, accuracy: Accuracy) -> tuple[str, ...]:
    low, high = wilson(num_right=accuracy.num_right, num_questions=accuracy.num_questions)
    interval = f"{100 * low:.0f} to {100 * high:.0f}%"
    return language, f"{accuracy.num_right:,} of {accuracy.num_questions:,}", _share(accuracy), interval


def _share(accuracy: Accuracy) -> str:
    return f"{accuracy.accuracy:.1%}" if accuracy.num_questions else NOTHING


def _verdict(low: float, high: float, chance: float) -> str:
    if low > chance:
        return "The interval lies above chance."
    if high < chance:
        return "The interval lies below chance."
    return "The interval holds chance, so this does not show that the model does better."
