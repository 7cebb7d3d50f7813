"""Summarises metrics.jsonl: over the whole training, and over its last steps."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TypedDict

from configs.base import UserError
from training.checkpoint.rollbacks import read_rollbacks
from training.job import Job
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_metrics
from training.log.sessions_file import SessionEvent, compute_goodput, read_session_events
from training.manifests import TrainedModel
from training.records import Rollback


class RunSummary(TypedDict):
    """The fields of TrainedModel that are computed from metrics, sessions and roll-backs."""

    first_loss: float
    final_loss: float
    bits_per_byte: float
    loss_by_language: dict[str, float]
    loss_by_source: dict[str, float]
    tokens_per_second: float
    mfu: float | None
    goodput: float
    num_restarts: int
    num_skipped: int
    rollbacks: tuple[Rollback, ...]


def summarise_training(
    job: Job, shapes: Mapping[str, tuple[int, ...]], *, num_steps: int, num_tokens: int, checkpoint: Path
) -> TrainedModel:
    """Make the manifest of a training that has taken its last step; `shapes` are those of its parameters by name."""
    return TrainedModel(
        architecture=job.config.model.architecture,
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        num_steps=num_steps,
        num_tokens=num_tokens,
        checkpoint=str(checkpoint.relative_to(job.out)),
        unigram_entropy=job.tokens.manifest.unigram_entropy,
        **summarise_metrics(
            read_metrics(job.out / METRICS_FILE),
            sessions=read_session_events(job.out),
            rollbacks=read_rollbacks(job.out),
        ),
    )


def summarise_metrics(
    metrics: Sequence[StepMetrics], *, sessions: Sequence[SessionEvent], rollbacks: Sequence[Rollback]
) -> RunSummary:
    """Summarise a training. Losses are of steps with a finite loss. Raises UserError if there is none."""
    finite = [step for step in metrics if math.isfinite(step.loss)]
    if not finite:
        raise UserError("no step of training had a finite loss; lower the learning rate or lengthen the warm-up")
    window = last_window(finite)
    known = [step.mfu for step in metrics if step.mfu is not None]
    total = compute_goodput(sessions, metrics)
    return RunSummary(
        first_loss=finite[0].loss,
        final_loss=fmean(step.loss for step in finite[-10:]),
        bits_per_byte=bits_per_byte(window),
        loss_by_language=loss_by(window, language_of),
        loss_by_source=loss_by(window, source_of),
        tokens_per_second=median(step.tokens_per_second for step in metrics),
        mfu=median(known) if known else None,
        goodput=total.fraction,
        num_restarts=total.num_restarts,
        num_skipped=metrics[-1].num_skipped,
        rollbacks=tuple(rollbacks),
    )


def last_window(metrics: Sequence[StepMetrics]) -> Sequence[StepMetrics]:
    """Return the last tenth of the steps, at least ten."""
    return metrics[-window_length(len(metrics)) :] if metrics else metrics


def window_length(num_steps: int) -> int:
    """Return how many steps the last tenth of a training has, at least ten if there are so many."""
    return min(num_steps, max(10, num_steps // 10))


def loss_by(metrics: Sequence[StepMetrics], group: Callable[[str], str]) -> dict[str, float]:
    """Return the loss over some steps by group of streams, in nats a token, sorted by the group's name."""
    nats, targets = defaultdict[str, float](float), Counter[str]()
    for step in metrics:
        for stream, num_targets in step.targets.items():
            nats[group(stream)] += step.nats[stream]
            targets[group(stream)] += num_targets
    return {name: nats[name] / targets[name] for name in sorted(nats) if targets[name]}


def source_of(stream: str) -> str:
    """Return the source in `source/language`."""
    return stream.partition("/")[0]


def language_of(stream: str) -> str:
    """Return the language in `source/language`."""
    return stream.partition("/")[2]


def bits_per_byte(metrics: Sequence[StepMetrics]) -> float:
    """Return all bits over all bytes of some steps; each step's bytes follow from its bits and its bits per byte."""
    bits = [sum(step.nats.values()) / math.log(2) for step in metrics]
    num_bytes = sum(b / step.bits_per_byte for b, step in zip(bits, metrics, strict=True) if step.bits_per_byte)
    return sum(bits) / num_bytes if num_bytes else 0.0


def seconds_by_part(metrics: Sequence[StepMetrics]) -> dict[str, float]:
    """Return the seconds of each part of a step, summed over steps."""
    names = dict.fromkeys(name for step in metrics for name in step.seconds)
    return {name: sum(step.seconds.get(name, 0.0) for step in metrics) for name in names}
