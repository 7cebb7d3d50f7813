"""The part of the page about training: the loss over the steps and by stream, speed, and what went wrong."""

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from configs.base import Artifact
from data_prep.manifests import TokenizedCorpus
from pipeline.report.charts import Bar, BarChart, LineChart, Mark, Reference, bar_chart, line_chart
from pipeline.report.tables import NOTHING, Table, settings_rows, split
from training.data.epochs import StreamEpochs, read_epochs
from training.log.metrics_file import StepMetrics, Validation
from training.log.sessions_file import GangStart, describe_ranks, read_session_events
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
    etas: MutableSequence[float] = field(default_factory=lambda: array("d"))
    """StepMetrics.eta; not a number where it is not known."""

    gradient_norms: MutableSequence[float] = field(default_factory=lambda: array("d"))
    validation_steps: MutableSequence[float] = field(default_factory=lambda: array("d"))
    validation_losses: MutableSequence[float] = field(default_factory=lambda: array("d"))
    first_validation: Validation | None = None
    best_validation: Validation | None = None
    last_validation: Validation | None = None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By part of a step, summed over the steps."""


@dataclass(frozen=True)
class TrainingPart:
    """The curves, with restarts and roll-backs marked on them; the losses of streams; the settings."""

    model: TrainedModel
    window_steps: int
    """The losses of streams are over so many of the last steps."""

    loss: LineChart
    validation_share: float | None
    """Share of the time that went into validation; None if there was none."""

    streams: Table | None
    """By source and language: how often it was read, and the bits per byte of what is held out of it."""

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
        series.etas.append(math.nan if step.eta is None else step.eta)
        series.gradient_norms.append(step.gradient_norm)
        for part, seconds in step.seconds.items():
            series.seconds[part] += seconds
        if step.validation is not None:
            _add_validation(series, step.step, step.validation)
    return series


def _add_validation(series: Series, step: int, found: Validation) -> None:
    series.validation_steps.append(step)
    series.validation_losses.append(found.loss)
    series.first_validation = series.first_validation or found
    series.last_validation, best = found, series.best_validation
    if best is None or found.loss < best.loss or math.isnan(best.loss):
        series.best_validation = found


def training_part(
    trained: Artifact[TrainedModel], tokens: TokenizedCorpus | None, series: Series, config: Mapping[str, JsonValue]
) -> TrainingPart:
    """Lay out the loss against that of a model without context, the speed, and what went wrong."""
    model = trained.manifest
    starts = [event for event in read_session_events(trained.dir) if isinstance(event, GangStart)]
    marks = _marks(starts, model.rollbacks)
    return TrainingPart(
        model=model,
        window_steps=window_length(series.num_steps),
        loss=_loss_chart(model, tokens, series, marks),
        validation_share=_validation_share(series),
        streams=_streams_table(read_epochs(trained.dir / model.checkpoint), series),
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
        second=list(zip(series.validation_steps, series.validation_losses, strict=True)),
        second_label="Held-out text",
    )


def _validation_share(series: Series) -> float | None:
    if series.last_validation is None:
        return None
    return series.seconds["validation"] / (sum(series.seconds.values()) or 1.0)


def _streams_table(read: Sequence[StreamEpochs], series: Series) -> Table | None:
    """Return a row for each stream, the most read first; None if nothing is known of them."""
    validations = [series.first_validation, series.best_validation, series.last_validation]
    found = [validation.bits_per_byte_by_stream for validation in validations if validation is not None]
    names = [one.stream for one in sorted(read, key=lambda one: (-one.tokens_read, one.stream))]
    names += sorted({name for by_stream in found for name in by_stream} - set(names))
    by_name = {one.stream: one for one in read}

    def cells(name: str) -> list[str]:
        one = by_name.get(name)
        times = [f"{one.num_tokens:,}", f"{one.tokens_read:,}", f"{one.epochs:,.2f}"] if one else [NOTHING] * 3
        return [name, *times, *(f"{bits[name]:.3f}" if name in bits else NOTHING for bits in found)]

    if not names:
        return None
    heads = ("Held out, first", "at the lowest loss", "last") if found else ()
    return Table(
        "By source and language, the most read first" + ("; held-out text in bits per byte" if found else ""),
        ("Stream", "Tokens", "Tokens read", "Times read", *heads),
        [cells(name) for name in names],
    )


def _small_charts(series: Series, marks: Sequence[Mark]) -> list[LineChart]:
    drawn = (
        ("Learning rate by step", "", series.learning_rates),
        ("Speed by step", "tokens a second", series.speeds),
        ("Eta by step, the share of the devices' own speeds", "", series.etas),
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
        if not all(map(math.isnan, values))
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
