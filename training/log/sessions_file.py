"""attempts.jsonl: the sessions of a training, the starts of its ranks within each, and the goodput they add up to.

A session is the work of one process that runs the training, from its start to its end or death. Within a session the
ranks are started once, and again after each loss of a rank or resize.
"""

import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cluster.host.files import sync
from training.log.metrics_file import StepMetrics
from training.manifests import counted

SESSIONS_FILE = "attempts.jsonl"
"""Name of the file. Its name and keys are older than the word session, and stay, so that old stores can be read."""

_MAX_HOSTS = 8
"""So many hosts are named in a description of ranks."""

EndReason = Literal["finished", "stopped", "failed"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float
    """Unix time."""

    session: str
    """Id of the session."""


class SessionStart(_Event):
    """A process, such as `concord run`, begins to train."""

    event: Literal["session"] = "session"


class GangStart(_Event):
    """The ranks have started, and are about to train; written by rank 0."""

    event: Literal["attempt"] = "attempt"
    step: int
    """The step that they resume after."""

    attempt: int
    """Number of restarts of the ranks before this start in the session."""

    world_size: int
    zero_stage: int
    host: str
    """Name of rank 0's machine."""

    hosts: tuple[str, ...] = ()
    """Name of each rank's machine."""

    device: str
    """Name of rank 0's device."""

    attention: str = ""
    """The implementation of attention that the ranks use."""

    lost_steps: int
    """Steps whose metrics were dropped because no checkpoint held them."""

    lost_until: float | None
    """Unix time of the last step that there was before this start, lost or kept; null if there was none."""


class SessionEnd(_Event):
    """The session ends in good order; one that was killed has no such event."""

    event: Literal["end"] = "end"
    why: EndReason


SessionEvent = SessionStart | GangStart | SessionEnd
_EVENT: TypeAdapter[SessionEvent] = TypeAdapter(Annotated[SessionEvent, Field(discriminator="event")])


@dataclass(frozen=True)
class Goodput:
    """How much of the time that a training took went into steps that were kept."""

    fraction: float
    """useful_seconds / wall_seconds; 0 before the first step."""

    useful_seconds: float
    """StepMetrics.useful_seconds of the last line."""

    wall_seconds: float
    """Time from the start of each session to its last sign of life; time between sessions, when nothing ran, is left
    out."""

    num_restarts: int
    """Starts of the ranks after the first, over all sessions."""

    lost_steps: int
    """Steps that were taken again after a restart."""


def record_session_start(out: Path) -> str:
    """Record in the artifact's directory that a session begins, and return its id."""
    session = uuid.uuid4().hex[:12]
    _append_event(out, SessionStart(time=time.time(), session=session))
    return session


def record_gang_start(
    out: Path,
    *,
    session: str,
    step: int,
    num_restarts: int,
    world_size: int,
    zero_stage: int,
    hosts: Sequence[str],
    device: str,
    attention: str,
    lost_steps: int,
    lost_until: float | None,
) -> None:
    """Record that the ranks, of which this process is the first, have started; GangStart has the arguments."""
    start = GangStart(
        time=time.time(),
        session=session,
        step=step,
        attempt=num_restarts,
        world_size=world_size,
        zero_stage=zero_stage,
        host=hosts[0],
        hosts=tuple(hosts),
        device=device,
        attention=attention,
        lost_steps=lost_steps,
        lost_until=lost_until,
    )
    _append_event(out, start)


def record_session_end(out: Path, *, session: str, why: EndReason) -> None:
    """Record that a session ends."""
    _append_event(out, SessionEnd(time=time.time(), session=session, why=why))


def read_session_events(out: Path) -> list[SessionEvent]:
    """Read every whole event, in order; none if there was no session."""
    path = out / SESSIONS_FILE
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [_EVENT.validate_json(line) for line in whole.splitlines()]


def attention_used(out: Path) -> str:
    """Return the implementation of attention that the last ranks used; empty if that is not recorded."""
    starts = [event for event in read_session_events(out) if isinstance(event, GangStart)]
    return starts[-1].attention if starts else ""


def compute_goodput(events: Sequence[SessionEvent], last: StepMetrics | None) -> Goodput:
    """Compute the goodput of the sessions' events up to the last line of the metrics."""
    starts = [event for event in events if isinstance(event, GangStart)]
    sessions = [event for event in events if isinstance(event, SessionStart)]
    signs_of_life = [event.time for event in events]
    signs_of_life += [start.lost_until for start in starts if start.lost_until is not None]
    signs_of_life += [last.time] if last else []
    useful = last.useful_seconds if last else 0.0
    wall = _seconds_alive([session.time for session in sessions], signs_of_life)
    return Goodput(
        fraction=min(1.0, useful / wall) if wall > 0 else 0.0,
        useful_seconds=useful,
        wall_seconds=wall,
        num_restarts=max(0, len(starts) - 1),
        lost_steps=sum(start.lost_steps for start in starts),
    )


def describe_ranks(start: GangStart) -> str:
    """Return how many ranks there are, of which device, in which ZeRO stage, and how many on each of a few hosts."""
    counts = Counter(start.hosts or (start.host,))
    named = [host if count == 1 else f"{count} on {host}" for host, count in counts.items()][:_MAX_HOSTS]
    more = f" and {len(counts) - _MAX_HOSTS:,} hosts more" if len(counts) > _MAX_HOSTS else ""
    ranks = f"{counted(start.world_size, 'rank')} of {start.device}, ZeRO stage {start.zero_stage}"
    return f"{ranks}: {', '.join(named)}{more}"


def step_seconds(step: StepMetrics) -> float:
    """Return the wall time of a step, from a line's targets and their rate."""
    seconds = sum(step.targets.values()) / step.tokens_per_second if step.tokens_per_second > 0 else 0.0
    return seconds / step.num_steps


def _seconds_alive(starts: Sequence[float], signs_of_life: Sequence[float]) -> float:
    """Return the sum of the seconds from each start to the last sign of life before the next start."""
    ends = [*starts, math.inf][1:]
    return sum(
        max((sign for sign in signs_of_life if start <= sign < end), default=start) - start
        for start, end in zip(starts, ends, strict=True)
    )


def _append_event(out: Path, event: SessionEvent) -> None:
    """Add a line that is on disk when this returns; one that a killed process left half-written is dropped."""
    path = out / SESSIONS_FILE
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(f"{event.model_dump_json()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if whole == 0:
        sync(out)  # the name of the file
