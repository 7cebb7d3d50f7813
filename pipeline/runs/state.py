"""How a run stands, from its directory, its lease, and, where these say nothing, its launcher."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from cluster.launch.launcher import Launcher, Whereabouts
from cluster.launch.table import launcher_for
from cluster.leases.lease import store_holder
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.runs.directory import RunDirectory
from pipeline.runs.driver import lease_name
from pipeline.runs.recorded import outputs_of
from pipeline.runs.records import AttemptRecord, StartRecord

Word = Literal["not started", "waiting", "starting", "running", "finished", "stopped", "failed", "lost", "unknown"]
"""`unknown`: its driver has not begun, and the launcher, which may yet begin it, cannot be asked."""

LIVE: tuple[Word, ...] = ("waiting", "starting", "running")


@dataclass(frozen=True)
class RunState:
    """How a run stands."""

    word: Word
    detail: str
    """More of it, in words; for a run that has ended, why."""

    @property
    def live(self) -> bool:
        """Whether a driver works, or is to."""
        return self.word in LIVE


def state_of(directory: RunDirectory) -> RunState:
    """How the run stands now."""
    # The lease first: a driver writes down how its attempt ended before it lets go.
    who = store_holder(directory.remote, directory.home, lease_name(directory.id))
    starts, attempts = directory.starts(), directory.attempts()
    last = attempts[-1] if attempts else None
    if last is not None and last.outcome == "finished" and _missing(directory) is None:
        return RunState("finished", f"after {_counted(len(attempts))}")
    if who is not None:
        return RunState("running", f"attempt {last.number if last else 1}, by {who}")
    if not starts:
        return RunState("not started", "it was submitted, but no driver was started")
    seen = _look(starts[-1])
    if seen.state == "waiting":
        return RunState("waiting", seen.detail)
    if last is None or last.start != starts[-1].number:
        return _before_first_attempt(starts[-1], seen)
    return _after(directory, last)


def launcher_of(start: StartRecord) -> Launcher:
    """The launcher that a start was made with. Raises UserError if this version cannot read its cluster file."""
    try:
        return launcher_for(ClusterConfig.model_validate(start.cluster))
    except ValidationError as error:
        raise UserError(
            f"the cluster file of start {start.number} is not one that this version of Concord can read "
            f"({error.error_count()} problems); use the version that made the start"
        ) from error


def _before_first_attempt(start: StartRecord, seen: Whereabouts) -> RunState:
    """Of a run whose lease nobody holds, and whose last start has made no attempt."""
    if start.handle is None:
        return RunState("not started", f"start {start.number} was written down, but its launcher was not reached")
    if seen.state == "running":
        return RunState("starting", seen.detail)
    if seen.state == "unknown":
        return RunState("unknown", f"no driver of start {start.number} has been seen yet ({seen.detail})")
    return RunState("failed", f"the driver ended before its first attempt ({seen.detail}){_last_words(start)}")


def _after(directory: RunDirectory, last: AttemptRecord) -> RunState:
    """Of a run whose lease nobody holds, by its last attempt."""
    if last.outcome is None:
        return RunState("lost", f"attempt {last.number}'s driver, process {last.pid} on {last.host}, is gone")
    if last.outcome == "finished":
        gone = _missing(directory)
        return RunState("failed", f"finished before, but {gone} is no longer in the store; resume makes it again")
    if last.outcome == "stopped":
        return RunState("stopped", last.reason)
    return RunState("failed", f"attempt {last.number}: {last.outcome.replace('_', ' ')}: {last.reason}")


def _look(start: StartRecord) -> Whereabouts:
    if start.handle is None:
        return Whereabouts("unknown", "the launcher was not reached")
    try:
        return launcher_of(start).look(start.handle)
    except UserError as error:  # a launcher that cannot be asked from here says nothing of the run
        return Whereabouts("unknown", str(error))
    except ValidationError:
        return Whereabouts("unknown", "this version cannot read what the launcher called it")


def _last_words(start: StartRecord) -> str:
    """The last line that a driver has left with its launcher, where that can be asked."""
    try:
        words = launcher_of(start).last_words(start.handle).strip() if start.handle else ""
    except UserError as error:
        return f"; its last words cannot be had: {error}"
    return f"; its last words: {words.splitlines()[-1]}" if words else ""


def _missing(directory: RunDirectory) -> str | None:
    """A wanted artifact that is no longer there."""
    return next((artifact for artifact in outputs_of(directory).values() if not directory.has(artifact)), None)


def _counted(number: int) -> str:
    return f"{number} attempt{'s' if number != 1 else ''}"
