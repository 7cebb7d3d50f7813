"""metrics.jsonl: one JSON line an optimizer step, the truth about a training run."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.files import whole_file

FILE = "metrics.jsonl"

_TAIL_BYTES = 1 << 20
"""More than any line, which grows with the number of languages in a step."""


class StepMetrics(BaseModel):
    """What one optimizer step gave."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # or they come back as null

    step: int
    """From 1."""

    loss: float
    """Mean over the step's targets on all ranks, nats a token."""

    bits_per_byte: float
    """The loss in bits over the bytes of text that its targets stand for, at each stream's mean bytes a token."""

    nats: dict[str, float]
    """Sum of the token losses by `source/language`, of the streams that the step read."""

    targets: dict[str, int]
    """Number of targets by `source/language`."""

    learning_rate: float
    gradient_norm: float
    """Of the global gradient, before clipping."""

    updated: bool
    """False: loss or gradient were not finite, so the weights stayed as they were."""

    num_skipped: int
    """Steps without an update since the start of training."""

    num_rollbacks: int
    """Roll-backs since the start of training."""

    num_tokens: int
    """Targets since the start of training."""

    tokens_per_second: float
    """Targets of this step over its wall time."""

    mfu: float | None
    """Model FLOPs utilisation: training/flops.py. None on a device whose peak is not in the table."""

    memory_bytes: int
    """Most memory rank 0 has held so far: of the GPU, or resident without one."""

    seconds: dict[str, float]
    """Wall time of rank 0 by part: data, forward, backward, optimizer, communication (what the other parts waited for
    other ranks, and not in them), checkpoint (how long the loop stood still for the one after the step before)."""

    time: float
    """Unix time at the end of the step."""


class MetricsFile:
    """The file of one run, open for appending."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Keep the lines up to `step`, which a checkpoint holds, and drop what came after it."""
        kept = [line for line in _lines(path) if line.step <= step]
        with whole_file(path) as partial:
            partial.write_text("".join(f"{line.model_dump_json()}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def append(self, metrics: StepMetrics) -> None:
        """Add a line and hand it to the system, so that a killed process loses none."""
        self._file.write(f"{metrics.model_dump_json()}\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until the lines are on disk: a checkpoint must not outlive the metrics before it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[StepMetrics]:
    """Every whole line, in order."""
    return list(_lines(path))


def last_metrics(path: Path) -> StepMetrics | None:
    """The last whole line, without reading those before it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            whole = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return None
    return StepMetrics.model_validate_json(whole.rpartition(b"\n")[2]) if whole else None


class Stopwatch:
    """Wall time by named part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The times since the last call, rounded to 0.1 ms; starts again from nothing."""
        taken, self.seconds = self.seconds, {}
        return {name: round(value, 4) for name, value in taken.items()}


def _lines(path: Path) -> Iterator[StepMetrics]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield StepMetrics.model_validate(json.loads(line))
        except json.JSONDecodeError:  # the line that was being written when the process was killed
            return
