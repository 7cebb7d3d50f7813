"""Asking a run that goes on to stop, or to save a checkpoint now."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from cluster.leases.lease import holder
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.runs.directory import RunDirectory, now, user
from pipeline.runs.driver import grace_seconds
from pipeline.runs.progress import newest_checkpoint
from pipeline.runs.records import AttemptRecord, StartRecord
from pipeline.runs.retry import RESUME_ME
from pipeline.runs.state import LIVE, launcher_of, state_of
from pipeline.store.provenance import code_version, package_versions

SECONDS_BETWEEN_LOOKS = 0.3
MARGIN_SECONDS = 30.0
"""Beyond the grace, for the driver to hear of it and to end."""

CHECKPOINT_SECONDS = 300.0
"""How long a checkpoint that was asked for is waited for."""


def stop(directory: RunDirectory, out: Console) -> None:
    """Have the run save a checkpoint and end; end it by force if it does not within its grace."""
    state, start = state_of(directory), directory.starts()[-1] if directory.starts() else None
    if state.word == "unknown":
        raise UserError(
            f"run {directory.id} cannot be stopped from here: {state.detail}; ask where its launcher answers"
        )
    if not state.live or start is None:
        out.print(f"run [bold]{directory.id}[/] is {state.word} already: {escape(state.detail)}")
        return
    if state.word == "waiting" and start.handle is not None:
        launcher_of(start).kill(start.handle)
        _note_stopped(directory, start)
        out.print(f"run [bold]{directory.id}[/] was still waiting for machines, and is withdrawn")
        return
    grace = grace_seconds(ClusterConfig.model_validate(start.cluster)) + MARGIN_SECONDS
    if (request := _ask(directory, start, out)) is None:
        return
    out.print(f"asked run [bold]{directory.id}[/] to save and stop; it has {grace:g} s")
    if not _wait(lambda: state_of(directory).word not in (*LIVE, "unknown"), grace):
        if start.handle is not None:
            launcher_of(start).kill(start.handle)
        directory.heard(request)
        out.print(f"run [bold]{directory.id}[/] did not stop in time and was killed; its newest checkpoint is kept")
        return
    state = state_of(directory)
    out.print(f"{state.word}: {escape(state.detail)}")


def _ask(directory: RunDirectory, start: StartRecord, out: Console) -> str | None:
    """Leave the request; where the store takes none, being full, say it by the launcher, and return None."""
    try:
        return directory.ask("stop")
    except (UserError, OSError) as error:
        if start.handle is None:
            raise
        launcher_of(start).stop(start.handle)
        out.print(f"the store took no request ({escape(str(error))}), so the launcher was told to stop the driver")
        return None


def checkpoint_now(directory: RunDirectory, out: Console) -> None:
    """Have the run save a checkpoint after its present step, and wait until it is there."""
    state, starts = state_of(directory), directory.starts()
    if state.word != "running":
        raise UserError(f"run {directory.id} is {state.word}: {state.detail}; there is nothing to save")
    artifacts = starts[-1].artifacts
    if not any(name.startswith("train-") and holder(directory.home, name) for name in artifacts.values()):
        raise UserError(f"no training of run {directory.id} goes on now; see `concord status {directory.id}`")
    before = newest_checkpoint(directory.home, artifacts)
    directory.ask("checkpoint")

    def there() -> bool:
        return newest_checkpoint(directory.home, artifacts) > before or state_of(directory).word != "running"

    if not _wait(there, CHECKPOINT_SECONDS) or newest_checkpoint(directory.home, artifacts) <= before:
        raise UserError(
            f"no new checkpoint of run {directory.id} has appeared in {CHECKPOINT_SECONDS:g} s: perhaps no training "
            f"goes on; see `concord status {directory.id}`"
        )
    out.print(f"checkpoint of step {newest_checkpoint(directory.home, artifacts):,} is saved")


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it is done, after waiting for at most so long."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return True


def _note_stopped(directory: RunDirectory, start: StartRecord) -> None:
    """Of a driver that never began: an attempt that ended before it did anything."""
    record = AttemptRecord(
        number=len(directory.attempts()) + 1,
        start=start.number,
        host="",
        pid=0,
        began=now(),
        ended=now(),
        outcome="stopped",
        reason=f"withdrawn by {user()} before it began",
        exit_code=RESUME_ME,
        code=code_version(),
        packages=package_versions(),
    )
    directory.add_attempt(record)
