"""metrics.jsonl: one JSON line an optimizer step, the truth about a training run."""

import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

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

    first_place: int
    """Where the step's data begins in the order of samples."""

    num_tokens: int
    """Targets since the start of training."""

    tokens_per_second: float
    """Targets of this step over its wall time, without the time it stood still for a checkpoint."""

    mfu: float | None
    """Model FLOPs utilisation: training/sizing/flops.py. None on a device whose peak is not in the table."""

    memory_bytes: int
    """Most memory rank 0 has held so far: of the GPU, or resident without one."""

    seconds: dict[str, float]
    """Wall time of rank 0 by part: data, forward, backward, optimizer, other, communication (what these waited for
    other ranks, and not in them), checkpoint (how long the loop stood still for the one after the step before)."""

    time: float
    """Unix time at the end of the step."""


class MetricsFile:
    """The file of one run, open for appending. A full disk delays lines, and loses none while this process lives."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Keep the lines up to `step`, which a checkpoint holds, and drop what came after it."""
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        self._unwritten = b""
        self.lost_steps = 0
        """Lines that were dropped."""
        self.lost_until: float | None = None
        """Unix time of the last of them."""
        self.cut(step)

    def cut(self, step: int) -> None:
        """Drop the lines after `step`, and one that was being written when a process was killed."""
        end, self._unwritten, whole = 0, b"", True
        self.lost_steps, self.lost_until = 0, None
        for raw in _raw_lines(Path(self._file.name)):
            try:
                line = json.loads(raw)
            except json.JSONDecodeError:
                break
            if line["step"] <= step:
                end, whole = end + len(raw), raw.endswith(b"\n")
            else:
                self.lost_steps, self.lost_until = self.lost_steps + 1, line["time"]
        self._file.truncate(end)
        if not whole:
            self._unwritten = b"\n"

    def append(self, metrics: StepMetrics) -> None:
        """Add a line and hand it to the system, so that a killed process loses none."""
        with self._lock:
            self._unwritten += f"{metrics.model_dump_json()}\n".encode()
            with suppress(OSError):  # it stays in _unwritten; `sync` raises it before a checkpoint could hide it
                self._flush()

    def sync(self) -> None:
        """Wait until all lines are on disk: a checkpoint must not outlive the metrics before it. Raises OSError."""
        with self._lock:
            self._flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left, and close."""
        self.sync()
        self._file.close()

    def _flush(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._file.fileno(), self._unwritten) :]


def read_metrics(path: Path) -> list[StepMetrics]:
    """Every whole line, in order."""
    return list(_lines(path))


def recent_metrics(path: Path, *, up_to: int, count: int) -> list[StepMetrics]:
    """The last `count` lines of steps up to `up_to`, in order."""
    kept: deque[bytes] = deque(maxlen=count)
    for raw in _raw_lines(path):
        try:
            if json.loads(raw)["step"] <= up_to:
                kept.append(raw)
        except json.JSONDecodeError:  # the line that was being written when the process was killed
            break
    return [StepMetrics.model_validate(json.loads(raw)) for raw in kept]


def last_metrics(path: Path) -> StepMetrics | None:
    """The last whole line, without reading those before it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            whole = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return None
    return StepMetrics.model_validate_json(whole.rpartition(b"\n")[2]) if whole else None


def _lines(path: Path) -> Iterator[StepMetrics]:
    for raw in _raw_lines(path):
        try:
            yield StepMetrics.model_validate(json.loads(raw))
        except json.JSONDecodeError:  # the line that was being written when the process was killed
            return


def _raw_lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file
