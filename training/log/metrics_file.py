"""metrics.jsonl: the optimizer steps that were kept, a JSON line for each, or for as many as the step's cadence says.

A long training has gigabytes of lines. What starts or looks at one reads the file from its end.
"""

import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.base import UserError
from configs.text import one_line

METRICS_FILE = "metrics.jsonl"

_BLOCK_BYTES = 1 << 16
"""What is read at a time from the end of the file."""

_MAX_LINES_BACK = 10_000
"""Lines that the newest validation is looked for in."""


class Validation(BaseModel):
    """The loss on the held-out sample after a step."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    loss: float
    """Mean over the sample's targets, nats a token."""

    bits_per_byte: float
    """The loss in bits over the bytes of its targets' text, estimated by each stream's mean bytes a token."""

    nats: dict[str, float]
    """Sum of the token losses, in nats, by `source/language`."""

    targets: dict[str, int]
    """Number of targets by `source/language`."""

    bits_per_byte_by_stream: dict[str, float]
    """The same by `source/language`."""


class StepMetrics(BaseModel):
    """The numbers of a line: of one optimizer step, or of several that follow each other.

    Of several, the sums and means leave out steps whose loss is not finite, if there are others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # else they become null

    step: int
    """Number of the step, from 1; of several the last."""

    num_steps: int = 1
    """How many steps the line sums up."""

    loss: float
    """Mean over the targets on all ranks, nats a token."""

    bits_per_byte: float
    """The loss in bits over the bytes of its targets' text, estimated by each stream's mean bytes a token."""

    nats: dict[str, float]
    """Sum of the token losses, in nats, by `source/language`, of the streams that were read."""

    targets: dict[str, int]
    """Number of targets by `source/language`."""

    terms: dict[str, float] = {}
    """Means over the targets of what the objective has beside the loss, before it is weighted: `router_balance`, which
    is the number of experts a token goes to if all are equally busy, `router_z` and `output_z`. By batch,
    `router_balance` is by the shares of the whole step, though a pass has the gradient by those up to it."""

    expert_load: dict[str, list[float]] = {}
    """By layer with experts, the load of the busiest expert, `max`, and of the idlest, `min`, in the last step, as a
    multiple of the mean."""

    validation: Validation | None = None
    """The validation after the last step, if there was one."""

    learning_rate: float
    """That of the last step."""

    gradient_norm: float
    """Norm of the global gradient before clipping; of several steps the largest."""

    gradient_norms: dict[str, float] = {}
    """Norm of the global gradient before clipping by part of the model: `embedding`, `layer_0` and so on, `output`, and
    `rest`; of the last of the line's steps that cadence.gradient_norms_every_steps asks for, if there is one."""

    updated: bool
    """False if loss or gradient of a step were not finite, so that the weights stayed as they were."""

    num_skipped: int
    """Steps without an update since the start of training."""

    num_rollbacks: int
    """Roll-backs since the start of training."""

    first_place: int
    """Place of the first sample in the order of samples."""

    num_tokens: int
    """Targets since the start of training."""

    tokens_per_second: float
    """Targets over the wall time, without the time that training waited for a checkpoint or a profile, or validated."""

    useful_seconds: float = 0.0
    """Such time of all steps that were kept, since the start of training."""

    eta: float | None = None
    """Sequences of the steps over those that the ranks' devices would have computed in that wall time, each by itself:
    G / (seconds of a step * sum of the rates in sequences a second). It is that of the steps one earlier, whose passes
    are known only then; None before it is known."""

    mfu: float | None
    """Model FLOPs utilisation (training/sizing/flops.py); None on a device whose peak is not known."""

    graphs_compiled: int = 0
    """Graphs that rank 0 compiled in these steps. After the first steps of a start, and its first validation, each is a
    recompilation, which the other ranks wait for."""

    memory_bytes: int
    """Peak memory of rank 0 so far: of the GPU, or resident without one."""

    seconds: dict[str, float]
    """Wall time of rank 0 by part: data, forward, backward, optimizer, communication (collectives within the other
    parts, which do not count them), checkpoint (waiting for the one after the step before), profile (starting a
    profiler, or writing what it recorded up to the step before), validation, other."""

    time: float
    """Unix time at the end of the last step."""


class MetricsFile:
    """The file of one training, open for appending. On a full disk, lines wait in memory until they can be written."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open the file and keep the lines up to `step`, which a checkpoint holds; later ones are dropped."""
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        self._unwritten = b""
        self.lost_steps = 0
        """Number of steps whose lines were dropped."""
        self.last: StepMetrics | None = None
        """The last line."""
        self.lost_until: float | None = None
        """Unix time of the last line that there was, kept or dropped."""
        self.truncate_after(step)

    def truncate_after(self, step: int) -> None:
        """Drop the lines after `step`, and what was being written when a process or a machine died.

        Raises UserError if the line that is kept last is none of this version's.
        """
        end, self._unwritten, self.lost_steps, self.last, self.lost_until = 0, b"", 0, None, None
        path = Path(self._file.name)
        for start, raw in _lines_backwards(path):
            try:
                found = json.loads(raw)
            except ValueError:
                continue
            try:
                line = StepMetrics.model_validate(found)
            except ValidationError as error:
                raise UserError(
                    f"{path} has a line at byte {start:,} that this version of Concord did not write "
                    f"({one_line(error.errors()[0]['msg'])}); use the version that made it, or move the file away"
                ) from error
            self.lost_until = self.lost_until or line.time
            if line.step <= step:
                end, self.last = start + len(raw), line
                self._unwritten = b"" if raw.endswith(b"\n") else b"\n"
                break
            self.lost_steps += line.num_steps
        self._file.truncate(end)

    def append(self, metrics: StepMetrics) -> None:
        """Add a line and pass it to the operating system, so that a killed process loses none."""
        self.last = metrics
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


def read_recent_metrics(path: Path, *, up_to: int | None = None, count: int) -> list[StepMetrics]:
    """Read the last `count` whole lines, of steps up to `up_to`, in order; none if there is no file."""
    lines = (line for line in iterate_metrics_backwards(path) if up_to is None or line.step <= up_to)
    return list(islice(lines, count))[::-1]


def read_last_metrics(path: Path) -> StepMetrics | None:
    """Read the last whole line; None if there is none."""
    return next(iterate_metrics_backwards(path), None)


def read_last_validated(path: Path, *, after: int = 0) -> StepMetrics | None:
    """Return the last line after the step `after` that has a validation, of the last 10,000 lines; None if none has."""
    newest = islice(iterate_metrics_backwards(path), _MAX_LINES_BACK)
    lines = takewhile(lambda line: line.step > after, newest)
    return next((line for line in lines if line.validation is not None), None)


def iterate_metrics_backwards(path: Path) -> Iterator[StepMetrics]:
    """Yield every whole line, the last first, and read no more of the file than is asked for; none if no file."""
    for _, raw in _lines_backwards(path):
        if raw.endswith(b"\n"):  # else it is being written, or was when the process was killed
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                yield StepMetrics.model_validate(json.loads(raw))


def iterate_metrics(path: Path, *, num_bytes: float = math.inf) -> Iterator[StepMetrics]:
    """Yield every whole line that begins in the first `num_bytes`, in order and one at a time; none if no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = 0
        for raw in file:
            if start >= num_bytes:
                return
            start += len(raw)
            try:
                yield StepMetrics.model_validate(json.loads(raw))
            except json.JSONDecodeError:  # the line that was being written when the process was killed
                return


def _lines_backwards(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield where each line begins, and the line with its end, if it has one; the last first."""
    if not path.exists():
        return
    with path.open("rb") as file:
        position, tails = file.seek(0, os.SEEK_END), list[bytes]()  # of the line before, the last part first
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            tails.append(file.read(size))
            if position and b"\n" not in tails[-1]:
                continue
            tail = b"".join(reversed(tails))
            first = tail.find(b"\n") + 1 if position else 0  # the line before it may begin in an earlier block
            end = position + len(tail)
            for raw in reversed(tail[first:].splitlines(keepends=True)):
                end -= len(raw)
                yield end, raw
            tails = [tail[:first]]
