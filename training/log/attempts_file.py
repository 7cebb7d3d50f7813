"""attempts.jsonl: when training was begun, by what, and when it ended; and the goodput that follows from it."""

import math
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cluster.host.files import sync
from training.log.metrics_file import StepMetrics

FILE = "attempts.jsonl"

Why = Literal["finished", "stopped", "failed"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float
    """Unix time."""

    session: str


class Session(_Event):
    """One `concord run` comes to this training."""

    event: Literal["session"] = "session"


class Attempt(_Event):
    """Rank 0 begins."""

    event: Literal["attempt"] = "attempt"
    step: int
    """The step it goes on from."""

    attempt: int
    """How often the ranks were started before in this session."""

    world_size: int
    zero_stage: int
    host: str
    """Where rank 0 is."""

    hosts: tuple[str, ...] = ()
    """Where each rank is."""

    device: str
    """Name of rank 0's device."""

    lost_steps: int
    """Steps whose metrics were dropped because no checkpoint held them."""

    lost_until: float | None
    """Unix time of the last of these; null if there were none."""


class End(_Event):
    """The session ends in good order: one that was killed has no such event."""

    event: Literal["end"] = "end"
    why: Why


Event = Session | Attempt | End
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


@dataclass(frozen=True)
class Goodput:
    """How much of the time that a training took went into steps that stand."""

    fraction: float
    """useful_seconds of wall_seconds; 0 before the first step."""

    useful_seconds: float
    """Wall time of the steps in metrics.jsonl."""

    wall_seconds: float
    """From the start of each session to its last sign of life. Time between sessions, when nothing ran, is no part."""

    num_restarts: int
    """Attempts after the first."""

    lost_steps: int
    """Steps that were taken again after a restart."""


def begin_session(out: Path) -> str:
    """Write down that a session begins in the artifact's directory; returns its id."""
    session = uuid.uuid4().hex[:12]
    _append(out, Session(time=time.time(), session=session))
    return session


def begin_attempt(
    out: Path,
    *,
    session: str,
    step: int,
    attempt: int,
    world_size: int,
    zero_stage: int,
    hosts: Sequence[str],
    device: str,
    lost_steps: int,
    lost_until: float | None,
) -> None:
    """Write down that this process, rank 0, begins."""
    begun = Attempt(
        time=time.time(),
        session=session,
        step=step,
        attempt=attempt,
        world_size=world_size,
        zero_stage=zero_stage,
        host=hosts[0],
        hosts=tuple(hosts),
        device=device,
        lost_steps=lost_steps,
        lost_until=lost_until,
    )
    _append(out, begun)


def end_session(out: Path, *, session: str, why: Why) -> None:
    """Write down that a session ends."""
    _append(out, End(time=time.time(), session=session, why=why))


def read_attempts(out: Path) -> list[Event]:
    """Every whole event, in order; none if nothing was begun."""
    path = out / FILE
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [_EVENT.validate_json(line) for line in whole.splitlines()]


def goodput(events: Sequence[Event], metrics: Iterable[StepMetrics]) -> Goodput:
    """What the events and the steps that stand come to, up to the last of them."""
    attempts = [event for event in events if isinstance(event, Attempt)]
    sessions = [event for event in events if isinstance(event, Session)]
    signs = [event.time for event in events]
    signs += [attempt.lost_until for attempt in attempts if attempt.lost_until is not None]
    useful = 0.0
    for step in metrics:
        signs.append(step.time)
        useful += step_seconds(step)
    wall = _alive([session.time for session in sessions], signs)
    return Goodput(
        fraction=min(1.0, useful / wall) if wall > 0 else 0.0,
        useful_seconds=useful,
        wall_seconds=wall,
        num_restarts=max(0, len(attempts) - 1),
        lost_steps=sum(attempt.lost_steps for attempt in attempts),
    )


def step_seconds(step: StepMetrics) -> float:
    """Wall time of a step, from its targets and their rate."""
    return sum(step.targets.values()) / step.tokens_per_second if step.tokens_per_second > 0 else 0.0


def _alive(starts: Sequence[float], signs: Sequence[float]) -> float:
    """Seconds from each start to the last sign of life before the next start, in all."""
    ends = [*starts, math.inf][1:]
    return sum(
        max((sign for sign in signs if start <= sign < end), default=start) - start
        for start, end in zip(starts, ends, strict=True)
    )


def _append(out: Path, event: Event) -> None:
    """Add a line that is on disk when this returns; one that a killed process left half-written goes."""
    path = out / FILE
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(f"{event.model_dump_json()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if whole == 0:
        sync(out)  # the name of the file
