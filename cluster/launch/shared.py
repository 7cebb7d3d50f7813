"""What launchers share."""

import fcntl
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.launch.launcher import Submission
from configs.base import ConfigError
from configs.secrets import is_secret

NUM_LAST_LINES = 50
MARGIN_SECONDS = 30
"""What a driver is given beyond its grace, to write down how it ended."""


class CommandFailed(Exception):
    """What a command said on its way out, in one line."""


def started_once(record: Path, start: Callable[[], str]) -> str:
    """The handle that `record` holds, or, if it holds none yet, that of `start()`, which is then put there.

    One at a time: a second process that asks waits for the first and gets its handle.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if handle := file.read():
            return handle
        handle = start()
        file.write(handle)
        file.flush()
        os.fsync(file.fileno())
        return handle


def open_environment(submission: Submission) -> dict[str, str]:
    """The driver's variables that may be read by others and that make sense inside another cluster's Ray.

    How to reach a Ray (`RAY_AUTH_...`) is left out: the paths are this machine's, and a cluster knows its own.
    """
    return {
        name: value
        for name, value in submission.environment.items()
        if not is_secret(name) and not name.startswith("RAY_AUTH_")
    }


def secret_names(submission: Submission) -> list[str]:
    """The driver's variables that `open_environment` keeps back, without those for reaching a Ray."""
    return sorted(name for name in submission.environment if is_secret(name) and not name.startswith("RAY_AUTH_"))


def python_path(submission: Submission) -> str:
    """PYTHONPATH of a driver on a machine that has this one's files."""
    return os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH", "")]))


def seconds_to_stop(submission: Submission) -> int:
    """How long a driver may live on when it was told to end."""
    return math.ceil(submission.grace_seconds) + MARGIN_SECONDS


def last_lines(text: str) -> str:
    """The end of an output."""
    return "\n".join(text.splitlines()[-NUM_LAST_LINES:])


def end_of(log: Path) -> str:
    """The last lines of a log; nothing if it is not there."""
    return last_lines(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else ""


def call(command: Sequence[str], *, text: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run a command with `text` as its input and return what it prints. Raises CommandFailed."""
    try:
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise CommandFailed(f"`{command[0]}` cannot be run on this machine: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise CommandFailed(said[-1])
    return done.stdout


def require(program: str, *, hint: str) -> None:
    """Raise ConfigError if there is no such program."""
    if shutil.which(program) is None:
        raise ConfigError(f"there is no `{program}` on this machine's PATH; {hint}")
