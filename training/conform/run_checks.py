"""Runs the checks, each kind in a process of its own, and makes the record. Imports nothing heavy."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from configs.base import UserError
from training.conform.child import ChildFailed, run_in_child
from training.conform.facts import Facts, describe_host, find_facts, versions
from training.conform.record import Check, ConformRecord, failure
from training.conform.scale import Scale, choose_scale

if TYPE_CHECKING:
    from training.conform.synthetic_job import Bench

KIND_SECONDS = {
    "gradients": 180.0,
    "resume": 90.0,
    "attention": 90.0,
    "memory": 120.0,
    "speed": 150.0,
    "checkpoint": 90.0,
    "deterministic": 60.0,
    "compile": 150.0,
}
"""The kinds of checks in their order, and how long each may take."""

TOTAL_SECONDS = 600.0
"""How long all may take: a kind whose turn comes later fails."""

_FACTS_SECONDS = 120.0


def run_checks(
    *, code: str, quick: bool, kinds: Sequence[str] = (), show: Callable[[Check], None] = lambda check: None
) -> ConformRecord:
    """Run the checks of all kinds, or of some, on this machine's accelerator; `show` is called with each at its end.

    `code` is Concord's version for the record. Raises UserError if PyTorch does not get as far as naming the device.
    """
    started, start = datetime.now(UTC), time.monotonic()
    with TemporaryDirectory(prefix="concord-conform-") as directory:
        facts = find_machine(Path(directory))
        scale = choose_scale(
            facts.device.type, memory_bytes=facts.device.memory_bytes, has_bf16=facts.has_bf16, quick=quick
        )
        checks = []
        for kind in kinds or KIND_SECONDS:
            seconds = min(KIND_SECONDS[kind], start + TOTAL_SECONDS - time.monotonic())
            for check in run_kind(kind, facts.device.type, scale, Path(directory), seconds=seconds):
                checks.append(check)
                show(check)
    return ConformRecord(
        device=facts.device,
        host=describe_host(),
        versions=versions(),
        code=code,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - start, 1),
        scale=scale.name,
        checks=tuple(checks),
    )


def find_machine(directory: Path) -> Facts:
    """Return the facts of this machine. Raises UserError if PyTorch cannot tell."""
    try:
        (facts,) = run_in_child(find_facts, seconds=_FACTS_SECONDS, log=directory / "facts.log")
    except ChildFailed as error:
        raise UserError(f"PyTorch cannot tell which accelerator this machine has: {error}") from None
    assert isinstance(facts, Facts)
    return facts


def run_kind(kind: str, device_type: str, scale: Scale, directory: Path, *, seconds: float) -> Iterator[Check]:
    """Run the checks of one kind in a child process; what ends it is a failed check of the kind's name."""
    yield from run_work(check_kind, kind, device_type, scale, directory, seconds=seconds, total_seconds=TOTAL_SECONDS)
    shutil.rmtree(directory / kind, ignore_errors=True)


def run_work(
    work: Callable[..., Iterator[Check]],
    name: str,
    device_type: str,
    *arguments: Any,
    seconds: float,
    total_seconds: float,
) -> Iterator[Check]:
    """Yield the checks of `work(name, device_type, *arguments)` in a child; what ends it is a failure of this name.

    The last argument is the directory that it may fill; its output goes there. `seconds` are left to it, of the
    `total_seconds` that all may take.
    """
    directory: Path = arguments[-1]
    if seconds <= 0:
        yield failure(name, f"there was no time left of {total_seconds:.0f} s")
        return
    if device_type == "cpu":  # else DeepSpeed says that it looks for others
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        yield from run_in_child(
            work,
            name,
            device_type,
            *arguments,
            seconds=seconds,
            log=directory / f"{name}.log",
            fork=device_type == "cpu",
        )
    except ChildFailed as error:
        yield failure(name, str(error))


def check_kind(kind: str, device_type: str, scale: Scale, directory: Path) -> Iterator[Check]:
    """Run the checks of one kind in this process, which must have joined no process group."""
    from training.conform.synthetic_job import open_bench

    own = directory / kind
    own.mkdir()
    with open_bench(device_type, scale, own) as bench:
        yield from find_check(kind)(bench)


def find_check(kind: str) -> "Callable[[Bench], Iterator[Check]]":
    """Return the function of a kind of checks; all of them import PyTorch and DeepSpeed."""
    from training.conform.gradients import check_gradients
    from training.conform.kernels import check_attention
    from training.conform.memory import check_memory
    from training.conform.repeats import check_deterministic, check_resume
    from training.conform.saving import check_saving
    from training.conform.speed import check_compile, check_speed

    return {
        "gradients": check_gradients,
        "resume": check_resume,
        "attention": check_attention,
        "memory": check_memory,
        "speed": check_speed,
        "checkpoint": check_saving,
        "deterministic": check_deterministic,
        "compile": check_compile,
    }[kind]
