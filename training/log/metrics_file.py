"""metrics.jsonl: one JSON line for each optimizer step that was kept."""

import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

METRICS_FILE = "metrics.jsonl"

_TAIL_BYTES = 1 << 20
"""More than the longest line, which grows with the number of languages in a step."""


class StepMetrics(BaseModel):
    """The numbers of one optimizer step."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # else they become null

    step: int
    """Number of the step, from 1."""

    loss: float
    """Mean over the step's targets on all ranks, nats a token."""

    bits_per_byte: float
    """The loss in bits over the bytes of its targets' text, estimated by each stream's mean bytes a token."""

    nats: dict[str, float]
    """Sum of the token losses, in nats, by `source/language`, of the streams that the step read."""

    targets: dict[str, int]
    """Number of targets by `source/language`."""

    learning_rate: float
    gradient_norm: float
    """Norm of the global gradient before clipping."""

    updated: bool
    """False if loss or gradient were not finite, so that the weights stayed as they were."""

    num_skipped: int
    """Steps without an update since the start of training."""

    num_rollbacks: int
    """Roll-backs since the start of training."""

    first_place: int
    """Place of the step's first sample in the order of samples."""

    num_tokens: int
    """Targets since the start of training."""

    tokens_per_second: float
    """Targets of this step over its wall time, without the time that training waited for a checkpoint."""

    mfu: float | None
    """Model FLOPs utilisation (training/sizing/flops.py); None on a device whose peak is not known."""

    memory_bytes: int
    """Peak memory of rank 0 so far: of the GPU, or resident without one."""

    seconds: dict[str, float]
    """Wall time of rank 0 by part: data, forward, backward, optimizer, communication (collectives within the other
    parts, which do not count them), checkpoint (waiting for the one after the step before), other."""

    time: float
    """Unix time at the end of the step."""


class MetricsFile:
    """The file of one training, open for appending. On a full disk, lines wait in memory until they can be written."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open the file and keep the lines up to `step`, which a checkpoint holds; later ones are dropped."""
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        self._unwritten = b""
        self.lost_steps = 0
        """Number of lines that were dropped."""
        self.lost_until: float | None = None
        """Unix time of the last of them."""
        self.truncate_after(step)

    def truncate_after(self, step: int) -> None:
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
        """Add a line and pass it to the operating system, so that a killed process loses none."""
        with self._lock:
            self._unwritten += f"{metrics.model_dump_json()}\n".encode()
            with suppress(OSError):  # the line stays in _unwritten; `sync`, before the next checkpoint, raises
                self._flush()

    def sync(self) -> None:
        """Wait until all lines are on disk, as a checkpoint requires of the metrics before it. Raises OSError."""
        with self._lock:
            self._flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the remaining lines, and close. Raises OSError."""
        self.sync()
        self._file.close()

    def _flush(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._file.fileno(), self._unwritten) :]


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read every whole line, in order; none if there is no file."""
    return list(iterate_metrics(path))


def read_recent_metrics(path: Path, *, up_to: int, count: int) -> list[StepMetrics]:
    """Read the last `count` lines of steps up to `up_to`, in order."""
    kept: deque[bytes] = deque(maxlen=count)
    for raw in _raw_lines(path):
        try:
            if json.loads(raw)["step"] <= up_to:
                kept.append(raw)
        except json.JSONDecodeError:  # the line that was being written when the process was killed
            break
    return [StepMetrics.model_validate(json.loads(raw)) for raw in kept]


def read_last_metrics(path: Path) -> StepMetrics | None:
    """Read the last whole line, without reading those before it; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            whole = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return None
    return StepMetrics.model_validate_json(whole.rpartition(b"\n")[2]) if whole else None


def iterate_metrics(path: Path) -> Iterator[StepMetrics]:
    """Yield every whole line, in order, without holding the others: a long training has millions; none if no file."""
    for raw in _raw_lines(path):
        try:
            yield StepMetrics.model_validate(json.loads(raw))
        except json.JSONDecodeError:  # the line that was being written when the process was killed
            return


def _raw_lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file
