"""The parts of the page about what the model scored: bits per byte, multiple choice."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.manifests import Accuracy, MultipleChoice, Scores
from pipeline.report.charts import Bar, BarChart, Reference, bar_chart
from pipeline.report.tables import NOTHING, Table, split

_Z = 1.959964
"""The quantile of the normal distribution with 2.5% above it."""


@dataclass(frozen=True)
class ChoicePart:
    """Right answers, overall and by language, with 95% intervals."""

    task: MultipleChoice
    low: float
    high: float
    verdict: Literal["above", "below", "holds"]
    """How the interval lies to chance."""

    tables: Sequence[Table]


def wilson(*, num_right: int, num_questions: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson, JASA 22, 1927); 0..1 if nothing was asked."""
    if num_questions == 0:
        return 0.0, 1.0
    n, p = num_questions, num_right / num_questions
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def bits_charts(scores: Scores) -> list[BarChart]:
    """Return the bits per byte of each language, from the best to the worst; none if nothing was scored.

    A language that several sources have is shown by source.
    """
    num_sources = Counter(stream.rpartition("/")[2] for stream in scores.bits_per_byte_by_stream)
    by_name = {
        stream if num_sources[language] > 1 else language: score
        for stream, score in scores.bits_per_byte_by_stream.items()
        for language in [stream.rpartition("/")[2]]
    }
    ordered = sorted(by_name.items(), key=lambda item: (item[1].bits_per_byte, item[0]))
    bars = [Bar(name, s.bits_per_byte, f"{s.bits_per_byte:.3f}", f"{s.num_documents:,}") for name, s in ordered]
    return [
        bar_chart(
            run,
            title=f"Bits per byte, {run[0].label} to {run[-1].label}",
            heads=("bits", "docs"),
            maximum=bars[-1].value,
            reference=Reference("mean", scores.mean_bits_per_byte),
        )
        for run in split(bars)
    ]


def choice_part(task: MultipleChoice) -> ChoicePart:
    """Return what the page shows of a multiple-choice task."""
    low, high = wilson(num_right=task.total.num_right, num_questions=task.total.num_questions)
    heads = ("Language", "Right", "Accuracy", "95% interval")
    rows = [_answers(language, accuracy) for language, accuracy in sorted(task.by_language.items())]
    return ChoicePart(
        task=task,
        low=low,
        high=high,
        verdict="above" if low > task.chance else "below" if high < task.chance else "holds",
        tables=[Table(f"{run[0][0]} to {run[-1][0]}", heads, run) for run in split(rows)],
    )


def share(accuracy: Accuracy) -> str:
    """Return the share of right answers in percent; a dash if nothing was asked."""
    return f"{accuracy.accuracy:.1%}" if accuracy.num_questions else NOTHING


def _answers(language: str, accuracy: Accuracy) -> tuple[str, ...]:
    low, high = wilson(num_right=accuracy.num_right, num_questions=accuracy.num_questions)
    interval = f"{100 * low:.0f} to {100 * high:.0f}%"
    return language, f"{accuracy.num_right:,} of {accuracy.num_questions:,}", share(accuracy), interval
