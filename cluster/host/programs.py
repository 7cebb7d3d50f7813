"""Running another program and reading what it prints: always with a time limit, for a tool that hangs would hang us."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.base import ConfigError

PROBE_SECONDS = 10.0
"""Time limit of a question that is answered at once, such as `nvidia-smi -L`."""


class ProgramFailed(Exception):
    """A program ended badly, could not be started, or did not end in time. The message is one line that says which."""


class ProgramUnavailable(ProgramFailed):
    """A program could not be started or did not end in time, so that nothing is known of what it was asked."""


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended and what it printed."""

    exit_code: int | None
    """None where the program is missing, may not be run, or did not end in time."""

    output: str
    """Standard output if it ended well, else standard error, or why there is none."""

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def last_line(self) -> str:
        """The last line of the output, where programs say what is wrong."""
        return (self.output.splitlines() or ["nothing said"])[-1]


def run_program(
    command: Sequence[str],
    *,
    timeout_seconds: float = PROBE_SECONDS,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> ProgramResult:
    """Run a program to its end with `stdin` as its input. If it fails, is missing or hangs, the result says so."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return ProgramResult(None, f"{command[0]} did not end within {timeout_seconds:g} s")
    except OSError as error:
        return ProgramResult(None, f"`{command[0]}` cannot be run on this machine: {error.strerror}")
    output = done.stdout if done.returncode == 0 else done.stderr.strip() or done.stdout
    return ProgramResult(done.returncode, output.strip())


def call_program(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return what a program prints when it ends well. Raises ProgramFailed otherwise."""
    result = run_program(command, timeout_seconds=timeout_seconds, stdin=stdin, environment=environment)
    if result.exit_code is None:
        raise ProgramUnavailable(result.last_line)
    if not result.ok:
        raise ProgramFailed(result.last_line if result.output else f"exit code {result.exit_code}")
    return result.output


def require_program(program: str, *, hint: str) -> None:
    """Raise ConfigError if there is no such program on this machine's PATH."""
    if shutil.which(program) is None:
        raise ConfigError(f"there is no `{program}` on this machine's PATH; {hint}")
