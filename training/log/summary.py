"""Summarises metrics.jsonl: over the whole training, and over its last steps."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import TypedDict

from configs.base import UserError
from configs.training.train import TrainConfig
from data_prep.manifests import TokenizedCorpus
from training.checkpoint.choice import find_best
from training.checkpoint.rollbacks import read_rollbacks
from training.log.metrics_file import METRICS_FILE, StepMetrics, iterate_metrics
from training.log.sessions_file import SessionEvent, compute_goodput, read_session_events
from training.manifests import TrainedModel
from training.records import CHECKPOINTS, CheckpointRecord, Rollback, directory_of

FINAL_STEPS = 10
"""The final loss is the mean over so many steps."""


class RunSummary(TypedDict):
    """The fields of TrainedModel that are computed from metrics, sessions and roll-backs."""

    first_loss: float
    final_loss: float
    bits_per_byte: float
    validation_loss: float | None
    validation_bits_per_byte: float | None
    loss_by_language: dict[str, float]
    loss_by_source: dict[str, float]
    tokens_per_second: float
    mfu: float | None
    eta: float | None
    goodput: float
    num_restarts: int
    num_skipped: int
    rollbacks: tuple[Rollback, ...]


def summarise_training(out: Path, config: TrainConfig, tokens: TokenizedCorpus, last: CheckpointRecord) -> TrainedModel:
    """Make the manifest of the training in `out` up to the checkpoint `last`."""
    best = find_best(out / CHECKPOINTS)
    metrics = iterate_metrics(out / METRICS_FILE)
    return TrainedModel(
        architecture=config.model.architecture,
        num_parameters=sum(math.prod(shape) for shape in last.shapes.values()),
        num_steps=last.step,
        num_tokens=last.num_tokens,
        checkpoint=str(directory_of(Path(CHECKPOINTS), last.step)),
        best_checkpoint=str(directory_of(Path(CHECKPOINTS), best.step)) if best else None,
        best_validation_loss=best.validation_loss if best else None,
        unigram_entropy=tokens.unigram_entropy,
        **summarise_metrics(
            takewhile(lambda line: line.step <= last.step, metrics),
            last_step=last.step,
            sessions=read_session_events(out),
            rollbacks=read_rollbacks(out),
        ),
    )


def summarise_metrics(
    metrics: Iterable[StepMetrics], *, last_step: int, sessions: Sequence[SessionEvent], rollbacks: Sequence[Rollback]
) -> RunSummary:
    """Summarise a training up to `last_step`, and hold a few numbers a line, never the lines.

    Losses are of steps with a finite loss. Raises UserError if there is none.
    """
    speeds, known_mfu, known_eta, window, final = array("d"), array("d"), array("d"), LossSums(), LossSums()
    first = last = last_finite = validation = None
    window_start = last_step
    for line in metrics:
        if last is None:
            window_start = last_step - window_length(last_step - line.step + line.num_steps)
        last, validation = line, line.validation or validation
        speeds.append(line.tokens_per_second)
        known_mfu.extend([] if line.mfu is None else [line.mfu])
        known_eta.extend([] if line.eta is None else [line.eta])
        if math.isfinite(line.loss):
            first, last_finite = first or line, line
            if line.step > window_start:
                window.add(line)
            if line.step > last_step - FINAL_STEPS:
                final.add(line)
    if first is None or last is None or last_finite is None:
        raise UserError("no step of training had a finite loss; lower the learning rate or lengthen the warm-up")
    total = compute_goodput(sessions, last)
    return RunSummary(
        first_loss=first.loss,
        final_loss=last_finite.loss if final.loss is None else final.loss,
        bits_per_byte=window.bits_per_byte,
        validation_loss=validation.loss if validation else None,
        validation_bits_per_byte=validation.bits_per_byte if validation else None,
        loss_by_language=window.loss_by(language_of),
        loss_by_source=window.loss_by(source_of),
        tokens_per_second=median(speeds),
        mfu=median(known_mfu) if known_mfu else None,
        eta=median(known_eta) if known_eta else None,
        goodput=total.fraction,
        num_restarts=total.num_restarts,
        num_skipped=last.num_skipped,
        rollbacks=tuple(rollbacks),
    )


def parts_of_summary(first_step: int, last_step: int) -> set[int]:
    """Return the steps after which a line of the metrics must end, so that the summary hangs on no cadence."""
    num_steps = last_step - first_step
    return {first_step + 1, last_step - window_length(num_steps), last_step - min(num_steps, FINAL_STEPS)}


def window_length(num_steps: int) -> int:
    """Return how many steps the last tenth of a training has, at least ten if there are so many."""
    return min(num_steps, max(10, num_steps // 10))


class LossSums:
    """The losses of steps, summed up line by line."""

    def __init__(self) -> None:
        self._nats, self._targets = defaultdict[str, float](float), Counter[str]()
        self._bits = self._num_bytes = 0.0

    def add(self, line: StepMetrics) -> None:
        """Add the steps of a line."""
        bits = sum(line.nats.values()) / math.log(2)
        self._bits += bits
        self._num_bytes += bits / line.bits_per_byte if line.bits_per_byte else 0.0
        for stream, num_targets in line.targets.items():
            self._nats[stream] += line.nats[stream]
            self._targets[stream] += num_targets

    @property
    def loss(self) -> float | None:
        """The mean over all targets, nats a token; None without any."""
        num_targets = self._targets.total()
        return sum(self._nats.values()) / num_targets if num_targets else None

    @property
    def bits_per_byte(self) -> float:
        """All bits over all bytes; a line's bytes follow from its bits and its bits per byte."""
        return self._bits / self._num_bytes if self._num_bytes else 0.0

    def loss_by(self, group: Callable[[str], str]) -> dict[str, float]:
        """Return the loss by group of streams, in nats a token, sorted by the group's name."""
        nats, targets = defaultdict[str, float](float), Counter[str]()
        for stream, num_targets in self._targets.items():
            nats[group(stream)] += self._nats[stream]
            targets[group(stream)] += num_targets
        return {name: nats[name] / targets[name] for name in sorted(nats) if targets[name]}


def source_of(stream: str) -> str:
    """Return the source in `source/language`."""
    return stream.partition("/")[0]


def language_of(stream: str) -> str:
    """Return the language in `source/language`."""
    return stream.partition("/")[2]


def seconds_by_part(metrics: Sequence[StepMetrics]) -> dict[str, float]:
    """Return the seconds of each part of a step, summed over steps."""
    names = dict.fromkeys(name for step in metrics for name in step.seconds)
    return {name: sum(step.seconds.get(name, 0.0) for step in metrics) for name in names}
