"""Lines and progress for people, on standard error: a bar on a terminal, else one line every few seconds."""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.errors import LiveError
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


def print_line(text: str) -> None:
    """Print an indented line beside the progress. A full disk, or a reader that has gone, loses it."""
    print_safely(f"  {text}", to=sys.stderr)


def print_safely(text: str, *, to: IO[str] | None = None) -> None:
    """Print a line, on standard output unless said otherwise; where it cannot be written it is lost, and nothing else.

    What is told to people is no reason for work to end, or for a reader of a pipe to stop reading.
    """
    with suppress(OSError, ValueError):  # the latter: closed
        print(text, file=to, flush=True)


class ProgressMeter:
    """Shows the progress of one piece of work; a context manager."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._printed = self._begun = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "ProgressMeter":
        console = Console(stderr=True)
        if console.is_terminal and self._total > 1:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            bar = Progress(*columns, *times, console=console, transient=True)
            with suppress(LiveError):  # a step beside this one has a bar
                bar.start()
                self._bar = bar
                self._task = bar.add_task(f"  {self._label}", total=self._total, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done, with `note` beside it."""
        self._done = done
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            took = time.monotonic() - self._begun
            left = f", {took * (self._total - done) / done:,.0f} s left" if 0 < done < self._total else ""
            print_line(f"{self._label}: {done}/{self._total}, {took:,.0f} s{left} {note}".rstrip())

    def advance(self) -> None:
        """Show that one more is done."""
        self.update(self._done + 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
