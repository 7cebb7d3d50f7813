"""`concord stop` and `concord checkpoint-now`: ask a run that goes on to stop, or to save a checkpoint now."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cluster.leases.lease import holder
from configs.base import RESUME_ME, UserError
from configs.cluster import ClusterConfig
from pipeline.runs.directory import AttemptRecord, RunDirectory, StartRecord, now, user_name
from pipeline.runs.driver import grace_seconds
from pipeline.runs.state import LIVE, launcher_of, read_status
from pipeline.store.provenance import code_version, package_versions
from training.records import CHECKPOINTS, newest_checkpoint

SECONDS_BETWEEN_CHECKS = 0.3
MARGIN_SECONDS = 30.0
"""What a driver gets beyond the grace, to read the request and to end."""

CHECKPOINT_SECONDS = 300.0
"""How long a checkpoint that was asked for is waited for."""


def stop_run(directory: RunDirectory, out: Console) -> None:
    """Have the run save a checkpoint and end; end it by force if it does not within its grace."""
    status, start = read_status(directory), directory.starts()[-1] if directory.starts() else None
    if status.word == "unknown":
        raise UserError(
            f"run {directory.id} cannot be stopped from here: {status.detail}; ask where its launcher answers"
        )
    if not status.is_live or start is None:
        out.print(f"run [bold]{directory.id}[/] is {status.word} already: {escape(status.detail)}")
        return
    if status.word == "waiting" and start.handle is not None:
        launcher_of(start).kill(start.handle)
        _note_stopped(directory, start)
        out.print(f"run [bold]{directory.id}[/] was still waiting for machines, and is withdrawn")
        return
    grace = grace_seconds(ClusterConfig.model_validate(start.cluster)) + MARGIN_SECONDS
    if (request := _request_stop(directory, start, out)) is None:
        return
    out.print(f"asked run [bold]{directory.id}[/] to save and stop; it has {grace:g} s")
    if not _wait_until(lambda: read_status(directory).word not in (*LIVE, "unknown"), grace):
        if start.handle is not None:
            launcher_of(start).kill(start.handle)
        directory.delete_request(request)  # or it would stop the next start
        out.print(f"run [bold]{directory.id}[/] did not stop in time and was killed; its newest checkpoint is kept")
        return
    status = read_status(directory)
    out.print(f"{status.word}: {escape(status.detail)}")


def _request_stop(directory: RunDirectory, start: StartRecord, out: Console) -> str | None:
    """Leave a request and return its name; if the store takes none, say because it is full, return None.

    The launcher has then been told to stop the driver.
    """
    try:
        return directory.add_request("stop")
    except (UserError, OSError) as error:
        if start.handle is None:
            raise
        launcher_of(start).stop(start.handle)
        out.print(f"the store took no request ({escape(str(error))}), so the launcher was told to stop the driver")
        return None


def save_checkpoint_now(directory: RunDirectory, out: Console) -> None:
    """Have the run save a checkpoint after its present step, and wait until it is on disk."""
    status, starts = read_status(directory), directory.starts()
    if status.word != "running":
        raise UserError(f"run {directory.id} is {status.word}: {status.detail}; there is nothing to save")
    artifacts = starts[-1].artifacts
    if not any(name.startswith("train-") and holder(directory.home, name) for name in artifacts.values()):
        raise UserError(f"no training of run {directory.id} goes on now; see `concord status {directory.id}`")
    before = _newest_step(directory.home, artifacts)
    directory.add_request("checkpoint")

    def is_over() -> bool:
        return _newest_step(directory.home, artifacts) > before or read_status(directory).word != "running"

    if not _wait_until(is_over, CHECKPOINT_SECONDS) or _newest_step(directory.home, artifacts) <= before:
        raise UserError(
            f"no new checkpoint of run {directory.id} has appeared in {CHECKPOINT_SECONDS:g} s: perhaps no training "
            f"goes on; see `concord status {directory.id}`"
        )
    out.print(f"checkpoint of step {_newest_step(directory.home, artifacts):,} is saved")


def _newest_step(home: Path, artifacts: Mapping[str, str]) -> int:
    """Return the largest step of a checkpoint of any of the artifacts; -1 if there is none."""
    steps = (newest_checkpoint(home / artifact / CHECKPOINTS) for artifact in artifacts.values())
    return max((step for step in steps if step is not None), default=-1)


def _wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Wait for at most so long, and return whether it is done."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(SECONDS_BETWEEN_CHECKS)
    return True


def _note_stopped(directory: RunDirectory, start: StartRecord) -> None:
    """Write down, for a driver that never began, an attempt that ended before it did anything."""
    record = AttemptRecord(
        number=len(directory.attempts()) + 1,
        start=start.number,
        host="",
        pid=0,
        began=now(),
        ended=now(),
        outcome="stopped",
        reason=f"withdrawn by {user_name()} before it began",
        exit_code=RESUME_ME,
        code=code_version(),
        packages=package_versions(),
    )
    directory.add_attempt(record)
