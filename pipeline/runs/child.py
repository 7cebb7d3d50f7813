"""The process of an attempt, as its driver sees it: what it prints, without secrets, and how it ended."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from cluster.host.redact import redact
from pipeline.runs.retry import Outcome, outcome_of

_SENTENCE = "concord: "
"""How the command begins what it says at its end (cli.py)."""

_LAST_LINES = 20
_SECONDS_TO_DIE = 10.0
MARGIN_SECONDS = 10.0
"""Beyond the grace, for what an attempt does after it has saved."""


class Child:
    """A running attempt, which ends with its block. What it prints is printed on, line by line, without secrets."""

    def __init__(self, command: Sequence[str], *, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        # A session of its own: what is sent to the driver's process group would reach it twice.
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._asked: float | None = None
        self._killed = False
        self._reader = threading.Thread(target=self._pass_on, name="output", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            if not self.wait(self._grace_seconds):
                self._process.kill()
                self.wait(_SECONDS_TO_DIE)

    @property
    def exit_code(self) -> int:
        """Of the process, once it has ended; negative for a signal."""
        assert self._process.returncode is not None
        return self._process.returncode

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for it for at most so long."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            self._reader.join(seconds)  # what it left running may hold the pipe open
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Ask it to save and end, once; when its grace is over, end it and what it started in its session."""
        if self._asked is None:
            self._asked = time.monotonic()
            self.send(signal.SIGTERM)
        elif time.monotonic() > self._asked + self._grace_seconds + MARGIN_SECONDS and not self._killed:
            self._killed = True
            os.killpg(self._process.pid, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """How it ended."""
        if self._asked is not None and (self._killed or self.exit_code in (signal.SIGTERM, -signal.SIGTERM)):
            return "preempted"  # before it could say so itself
        return outcome_of(self.exit_code, explained=any(line.startswith(_SENTENCE) for line in self._last))

    def reason(self) -> str:
        """What it said at its end, or how it was ended."""
        said = [line.removeprefix(_SENTENCE) for line in self._last if line.startswith(_SENTENCE)]
        if self._killed:
            return f"it did not end within {self._grace_seconds:g} s of grace and was killed"
        if said:
            return said[-1]
        if self.exit_code < 0:
            return f"the attempt's process was ended by {signal.Signals(-self.exit_code).name}"
        return self._last[-1] if self._last and self.exit_code else ""

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            clean = redact(line.rstrip("\n"))
            self._last.append(clean)
            print(clean, flush=True)
