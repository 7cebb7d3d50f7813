"""The launcher `local`: a process of this machine that outlives the terminal."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.host.processes import signal_process, start_ticks
from cluster.launch.launcher import DriverStatus, Submission
from cluster.launch.shared import python_path, read_last_lines, start_once
from configs.base import UserError
from configs.launchers import LocalLauncher


class LocalHandle(BaseModel):
    """Which process it is."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    born: int | None
    """Clock ticks from boot to the start of the process; None if it had ended before that could be read."""

    log: Path


class LocalProcess:
    """Starts drivers in sessions of their own, so that no closed terminal ends them."""

    def __init__(self, config: LocalLauncher) -> None:
        self._config = config

    def check(self) -> None:
        """Do nothing: a process needs nothing that could be missing."""

    def render(self, submission: Submission) -> str:
        """Return the command as a shell reads it."""
        return shlex.join(_command(submission))

    def submit(self, submission: Submission) -> str:
        """Start the process; what it prints goes to the log. Raises UserError if its directory is not here."""
        if not submission.directory.is_dir():
            raise UserError(
                f"{submission.directory}, where run {submission.run} was submitted from, is not on this machine; give "
                "the command where it is"
            )
        record = submission.log.with_name(f"{submission.name}.local.json")
        return start_once(record, partial(_start_process, submission))

    def status(self, handle: str) -> DriverStatus:
        """Return whether the process lives; `unknown` on another machine than its own."""
        process = LocalHandle.model_validate_json(handle)
        if process.host != socket.gethostname():
            return DriverStatus("unknown", f"a process of {process.host}")
        if process.born is not None and start_ticks(process.pid) == process.born:
            return DriverStatus("running", f"process {process.pid}")
        return DriverStatus("ended", f"process {process.pid} has ended")

    def stop(self, handle: str) -> None:
        """Send SIGTERM to the driver alone: its Ray must live until it has saved."""
        process = _read_own_handle(handle)
        if process.born is not None:
            signal_process(process.pid, process.born, signal.SIGTERM)

    def kill(self, handle: str) -> None:
        """Send SIGKILL to the driver and its process group."""
        process = _read_own_handle(handle)
        if process.born is not None:
            signal_process(process.pid, process.born, signal.SIGKILL, send=os.killpg)

    def last_output(self, handle: str) -> str:
        """Return the end of the log, which has all that the process printed."""
        return read_last_lines(LocalHandle.model_validate_json(handle).log)


def _start_process(submission: Submission) -> str:
    with submission.log.open("ab") as log:
        process = subprocess.Popen(
            _command(submission),
            cwd=submission.directory,
            env=os.environ | submission.environment | {"PYTHONPATH": python_path(submission)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    handle = LocalHandle(
        host=socket.gethostname(), pid=process.pid, born=start_ticks(process.pid), log=submission.log.absolute()
    )
    return handle.model_dump_json()


def _command(submission: Submission) -> list[str]:
    # -P: the code is that of `submission.code`, whatever packages lie in the working directory.
    return [sys.executable, "-P", *submission.command]


def _read_own_handle(handle: str) -> LocalHandle:
    """Parse a handle. Raises UserError if the process is one of another machine."""
    process = LocalHandle.model_validate_json(handle)
    if process.host != socket.gethostname():
        raise UserError(f"the run's driver is a process of {process.host}, not of this machine; give the command there")
    return process
