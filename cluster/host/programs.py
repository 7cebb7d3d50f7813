"""Other programs, asked for what they know."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECONDS = 10.0
"""A tool that takes longer hangs."""


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    code: int | None
    """Exit code; None where it is not there, may not be run, or did not end in time."""

    text: str
    """Its output, or else why there is none."""

    @property
    def fine(self) -> bool:
        """Whether it ended well."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """Where programs say what is wrong."""
        return (self.text.splitlines() or ["nothing said"])[-1]


def ask(
    command: Sequence[str],
    *,
    seconds: float = SECONDS,
    text: str = "",
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Run a program with `text` as its input."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        return Answer(None, f"{command[0]} did not end within {seconds:.0f} s")
    except OSError as error:
        return Answer(None, f"{command[0]}: {error.strerror}")
    return Answer(done.returncode, (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip())
