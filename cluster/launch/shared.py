"""What launchers share: starting a driver once, its environment, the end of its output, time limits of programs."""

import math
import os
from collections.abc import Callable
from pathlib import Path

from cluster.launch.launcher import Submission
from cluster.leases.flock import explain_lock_error, lock_file
from configs.secrets import is_secret

COMMAND_SECONDS = 60.0
"""Time limit of a launcher's program, such as `squeue`: one that hangs would hang `concord` and keep its locks."""

SLOW_COMMAND_SECONDS = 180.0
"""Time limit of a program that starts or stops a job: it may wait for admission checks, or load Ray first."""

NUM_LAST_LINES = 50
MARGIN_SECONDS = 30
"""What a driver is given beyond its grace, to write down how it ended."""


def start_once(record: Path, start: Callable[[], str]) -> str:
    """Return the handle that the file `record` holds; if it holds none yet, call `start` and put its handle there.

    Callers, also of several processes, take turns: one that comes second waits for the first and gets its handle.
    Raises UserError if the file system cannot lock.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.open("a+", encoding="utf-8") as file:
        try:
            lock_file(file, wait=True)
        except OSError as error:
            raise explain_lock_error(record, error) from error
        file.seek(0)
        if handle := file.read():
            return handle
        handle = start()
        file.write(handle)
        file.flush()
        os.fsync(file.fileno())
        return handle


def public_environment(submission: Submission) -> dict[str, str]:
    """Return the driver's variables that others may read and that make sense inside another cluster's Ray.

    How to reach a Ray (`RAY_AUTH_...`) is left out: the paths are this machine's, and a cluster knows its own.
    """
    return {
        name: value
        for name, value in submission.environment.items()
        if not is_secret(name) and not name.startswith("RAY_AUTH_")
    }


def secret_names(submission: Submission) -> list[str]:
    """Name the driver's variables that `public_environment` keeps back, without those for reaching a Ray."""
    return sorted(name for name in submission.environment if is_secret(name) and not name.startswith("RAY_AUTH_"))


def python_path(submission: Submission) -> str:
    """Return PYTHONPATH for a driver on a machine that has this one's files."""
    return os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH", "")]))


def grace_before_kill_seconds(submission: Submission) -> int:
    """Return how long a driver may live on after it was told to end."""
    return math.ceil(submission.grace_seconds) + MARGIN_SECONDS


def last_lines(text: str) -> str:
    """Return the last NUM_LAST_LINES lines of an output."""
    return "\n".join(text.splitlines()[-NUM_LAST_LINES:])


def read_last_lines(log: Path) -> str:
    """Read the last NUM_LAST_LINES lines of a log; nothing if it is not there."""
    return last_lines(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else ""
