"""The part of the page about training: the loss over the steps and by stream, speed, and what went wrong."""

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from data_prep.manifests import TokenizedCorpus
from pipeline.report.charts import Bar, BarChart, LineChart, Mark, Reference, bar_chart, line_chart
from pipeline.report.tables import Table, settings_rows, split
from training.log.metrics_file import StepMetrics
from training.log.sessions_file import GangStart, SessionEvent, describe_ranks
from training.log.summary import window_length
from training.manifests import TrainedModel
from training.records import Rollback

_MAX_STARTS = 50


@dataclass
class Series:
    """The numbers of all steps that are drawn, without those of each language: a long training has a million steps."""

    num_steps: int = 0
    steps: MutableSequence[float] = field(default_factory=lambda: array("d"))
    """The last step of each line of the metrics; what follows has a number for each line, too."""
    losses: MutableSequence[float] = field(default_factory=lambda: array("d"))
    learning_rates: MutableSequence[float] = field(default_factory=lambda: array("d"))
    speeds: MutableSequence[float] = field(default_factory=lambda: array("d"))
    gradient_norms: MutableSequence[float] = field(default_factory=lambda: array("d"))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By part of a step, summed over the steps."""


@dataclass(frozen=True)
class TrainingPart:
    """The curves, with restarts and roll-backs marked on them; the losses of streams; the settings."""

    model: TrainedModel
    window_steps: int
    """The losses of streams are over so many of the last steps."""

    loss: LineChart
    small_charts: Sequence[LineChart]
    by_language: Sequence[BarChart]
    by_source: Sequence[BarChart]
    starts: Table | None
    """Every start of the ranks, if there was more than one."""

    num_unlisted_starts: int
    rollbacks: Table | None
    layout: str
    """The ranks that took the last steps."""

    settings: Sequence[tuple[str, str]]


def read_series(metrics: Iterable[StepMetrics]) -> Series:
    """Collect what is drawn of the steps, one step at a time."""
    series = Series()
    for step in metrics:
        series.steps.append(step.step)
        series.num_steps += step.num_steps
        series.losses.append(step.loss)
        series.learning_rates.append(step.learning_rate)
        series.speeds.append(step.tokens_per_second)
        series.gradient_norms.append(step.gradient_norm)
        for part, seconds in step.seconds.items():
            series.seconds[part] += seconds
    return series


def training_part(
    model: TrainedModel,
    tokens: TokenizedCorpus | None,
    series: Series,
    events: Sequence[SessionEvent],
    config: Mapping[str, JsonValue],
) -> TrainingPart:
    """Lay out the loss against that of a model without context, the speed, and what went wrong."""
    starts = [event for event in events if isinstance(event, GangStart)]
    marks = _marks(starts, model.rollbacks)
    return TrainingPart(
        model=model,
        window_steps=window_length(series.num_steps),
        loss=_loss_chart(model, tokens, series, marks),
        small_charts=_small_charts(series, marks),
        by_language=_stream_losses(model.loss_by_language, "language"),
        by_source=_stream_losses(model.loss_by_source, "source"),
        starts=_starts_table(starts),
        num_unlisted_starts=max(0, len(starts) - _MAX_STARTS),
        rollbacks=_rollbacks_table(model.rollbacks),
        layout=describe_ranks(starts[-1]) if starts else "",
        settings=settings_rows(config),
    )


def _marks(starts: Sequence[GangStart], rollbacks: Sequence[Rollback]) -> list[Mark]:
    """Return a mark where the ranks were started again, and one where training rolled back.

    A roll-back is marked where it led back to: the steps after that are those that were taken instead.
    """
    restarts = [
        Mark("restart", start.step, f"restart after step {start.step:,}: {describe_ranks(start)}")
        for start in starts[1:]
    ]
    rolled = [
        Mark("rollback", rollback.to_step, f"roll-back from step {rollback.at_step:,} to {rollback.to_step:,}")
        for rollback in rollbacks
    ]
    return restarts + rolled


def _loss_chart(
    model: TrainedModel, tokens: TokenizedCorpus | None, series: Series, marks: Sequence[Mark]
) -> LineChart:
    references = [Reference("unigram entropy", model.unigram_entropy)]
    if tokens is not None:
        references.insert(0, Reference("ln(vocabulary)", math.log(tokens.vocab_size)))
    return line_chart(
        list(zip(series.steps, series.losses, strict=True)),
        title=f"Loss by step, from {model.first_loss:.2f} to {model.final_loss:.2f} nats a token",
        x_label="step",
        y_label="nats a token",
        references=references,
        marks=marks,
        height=320,
    )


def _small_charts(series: Series, marks: Sequence[Mark]) -> list[LineChart]:
    drawn = (
        ("Learning rate by step", "", series.learning_rates),
        ("Speed by step", "tokens a second", series.speeds),
        ("Gradient norm by step, before clipping", "", series.gradient_norms),
    )
    return [
        line_chart(
            list(zip(series.steps, values, strict=True)),
            title=title,
            x_label="step",
            y_label=unit,
            marks=marks,
            from_zero=True,
            height=150,
        )
        for title, unit, values in drawn
    ]


def _stream_losses(losses: Mapping[str, float], what: str) -> list[BarChart]:
    """Return bars for each stream, from the lowest loss to the highest, on one scale."""
    ordered = sorted(losses.items(), key=lambda item: (item[1], item[0]))
    bars = [Bar(name, loss, f"{loss:.3f}") for name, loss in ordered]
    return [
        bar_chart(run, title=f"Loss by {what}, {run[0].label} to {run[-1].label}", maximum=bars[-1].value)
        for run in split(bars)
    ]


def _starts_table(starts: Sequence[GangStart]) -> Table | None:
    if len(starts) < 2:
        return None
    rows = [(describe_ranks(start), f"{start.step:,}", f"{start.lost_steps:,}") for start in starts[:_MAX_STARTS]]
    return Table("Starts of the ranks", ("Ranks", "After step", "Steps taken again"), rows)


def _rollbacks_table(rollbacks: Sequence[Rollback]) -> Table | None:
    if not rollbacks:
        return None
    rows = [(r.reason, f"{r.at_step:,}", f"{r.to_step:,}", f"{r.skipped[1] - r.skipped[0]:,}") for r in rollbacks]
    return Table("Roll-backs", ("Reason", "At step", "Back to step", "Samples left out"), rows)
