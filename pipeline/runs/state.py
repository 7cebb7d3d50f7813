"""How a run stands, from its directory, its lease, and, where these say nothing, its launcher."""

from dataclasses import dataclass
from typing import Literal

from cluster.submit.launcher import Launcher, Whereabouts
from cluster.submit.table import launcher_for
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.lease import holder
from pipeline.runs.directory import RunDirectory
from pipeline.runs.drive import lease_name
from pipeline.runs.records import AttemptRecord, StartRecord

Word = Literal["not started", "waiting", "starting", "running", "finished", "stopped", "failed", "lost"]
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
    starts, attempts = directory.starts(), directory.attempts()
    last = attempts[-1] if attempts else None
    if last is not None and last.outcome == "finished":
        return RunState("finished", f"after {_counted(len(attempts))}")
    if (who := holder(directory.home, lease_name(directory.id))) is not None:
        return RunState("running", f"attempt {last.number if last else 1}, by {who}")
    if not starts:
        return RunState("not started", "it was submitted, but no driver was started")
    return _without_driver(directory, starts[-1], last)


def launcher_of(start: StartRecord) -> Launcher:
    """The launcher that a start was made with."""
    return launcher_for(ClusterConfig.model_validate(start.cluster))


def _without_driver(directory: RunDirectory, start: StartRecord, last: AttemptRecord | None) -> RunState:
    """Of a run whose lease nobody holds."""
    seen = _look(start)
    if seen.state == "waiting":
        return RunState("waiting", seen.detail)
    if last is None or last.start != start.number:
        if seen.state == "running":
            return RunState("starting", seen.detail)
        words = launcher_of(start).last_words(start.handle).strip() if start.handle else ""
        said = f"; its last words: {words.splitlines()[-1]}" if words else ""
        return RunState("failed", f"the driver ended before its first attempt ({seen.detail}){said}")
    if last.outcome is None:
        return RunState("lost", f"attempt {last.number}'s driver, process {last.pid} on {last.host}, is gone")
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


def _counted(number: int) -> str:
    return f"{number} attempt{'s' if number != 1 else ''}"
