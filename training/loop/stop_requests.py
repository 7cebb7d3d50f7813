"""Requests to a running training: to stop, to save, or to resize, by a signal or by a file in its directory.

What happens after SIGTERM or SIGUSR1, from the signal to the exit code:

1. In the process that started the ranks, `stop_on_signal` writes the file `.stop` and starts a timer of
   `grace_seconds`. Ranks may run on other machines, so the directory of the training is all that they share with it.
2. Rank 0's `RequestPoller` finds the file. A rank that gets the signal itself, as from Slurm, needs no file.
3. Each rank puts its requests into the collective of the next step (training/loop/step.py), so that all of them know
   after the same step.
4. The loop (training/loop/trainer.py) saves a checkpoint, waits until it is on disk, and raises Stopped on each rank.
5. Stopped reaches the starting process, whose exit code is RESUME_ME. If the timer ends first, `stop_on_signal` raises
   Stopped there, which ends the ranks where they are.

SIGUSR2 asks for a checkpoint with the file `.save`, and training goes on; so does rank 0's clock, where the step's
cadence says so. An executor calls `ask_to_resize`, which writes `.resize`: the ranks save and raise Resized, and are
started again in another number, or without the slow host that rank 0 has named in `.slow-host`.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from cluster.host.console import print_line
from cluster.host.files import write_text
from cluster.host.retry import fixed_waits, retry
from cluster.storage.errors import ignore_transient, is_transient
from configs.base import RESUME_ME, UserError

STOP_FILE = ".stop"
SAVE_FILE = ".save"
RESIZE_FILE = ".resize"
SLOW_HOST_FILE = ".slow-host"
SECONDS_BETWEEN_POLLS = 0.25


class Stopped(UserError):
    """Training was asked to stop, and has saved its work, or the time for that is over."""

    exit_code = RESUME_ME


@dataclass(frozen=True)
class TrainingRequests:
    """What training is asked to do: to stop, to save, or to end for another number of ranks. Nothing by default."""

    stop: bool = False
    """Save, and end."""

    save: bool = False
    """Save, and go on."""

    resize: bool = False
    """Save, and end, to be started again on another number of ranks."""


class RequestPoller:
    """Finds the requests that reach one rank: by signals, and on rank 0 by files."""

    def __init__(
        self,
        out: Path,
        *,
        watches_files: bool,
        on_poll: Callable[[], None] = lambda: None,
        save_every_seconds: float = math.inf,
    ) -> None:
        """Set signal handlers, and delete an old `.resize` and `.slow-host` if this rank watches files.

        `on_poll` is called as often as files are looked for, and may raise. The rank that watches files also asks for a
        save `save_every_seconds` after the last.
        """
        self._save_every_seconds, self._last_save = save_every_seconds, time.monotonic()
        self._out, self._watches_files, self._on_poll = out, watches_files, on_poll
        self._is_signalled, self._found, self._last_poll = False, TrainingRequests(), 0.0
        if watches_files:
            for name in (RESIZE_FILE, SLOW_HOST_FILE):  # the ranks have just been started where they should be
                (out / name).unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGUSR1) if _may_set_signals() else ():
            if getattr(signal.getsignal(number), "__module__", "") != __name__:  # else stop_on_signal's, in one process
                signal.signal(number, self._on_signal)

    def poll(self) -> TrainingRequests:
        """Return the requests so far. Looks for files at most once in SECONDS_BETWEEN_POLLS."""
        if self._watches_files and time.monotonic() - self._last_poll >= SECONDS_BETWEEN_POLLS:
            self._last_poll = time.monotonic()
            self._on_poll()
            with ignore_transient():  # which is no reason to end: they are looked for again
                self._found = TrainingRequests(
                    stop=(self._out / STOP_FILE).exists(),
                    save=(self._out / SAVE_FILE).exists() or self._is_save_due(),
                    resize=(self._out / RESIZE_FILE).exists(),
                )
        return replace(self._found, stop=self._found.stop or self._is_signalled)

    def clear_save_request(self) -> None:
        """Delete the request for a save, because one has begun."""
        self._last_save = time.monotonic()
        if self._watches_files and self._found.save:
            (self._out / SAVE_FILE).unlink(missing_ok=True)
            self._found = replace(self._found, save=False)

    def _is_save_due(self) -> bool:
        return time.monotonic() - self._last_save >= self._save_every_seconds

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_signalled = True


def ask_to_resize(out: Path) -> None:
    """Ask the training in `out` to save and end, to be started again on another number of ranks."""
    write_text(out / RESIZE_FILE, "")


def note_slow_host(out: Path, host: str | None) -> None:
    """Tell the process that started the ranks of the training in `out` which host keeps the others waiting now."""
    if host is None:
        (out / SLOW_HOST_FILE).unlink(missing_ok=True)
    else:
        write_text(out / SLOW_HOST_FILE, host)


def find_slow_host(out: Path) -> str | None:
    """Return the host that keeps the others waiting, if rank 0 has noted one."""
    with suppress(FileNotFoundError), ignore_transient():  # rank 0 may take it back at any moment
        return (out / SLOW_HOST_FILE).read_text(encoding="utf-8")
    return None


@contextmanager
def stop_on_signal(out: Path, *, grace_seconds: float) -> Iterator[None]:
    """Have SIGTERM and SIGUSR1 ask the ranks to save and stop during the block, and SIGUSR2 to save and go on.

    Raises Stopped in the block when `grace_seconds` are over, and at its end if training was asked to stop but had
    finished. Signals reach the main thread only; in another, this does nothing.
    """
    for name in (STOP_FILE, SAVE_FILE, RESIZE_FILE, SLOW_HOST_FILE):
        (out / name).unlink(missing_ok=True)
    if not _may_set_signals():
        yield
        return

    asked: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if not asked:
            asked.append(number)
            name = signal.Signals(number).name
            print_line(f"training: {name} received; saving a checkpoint and stopping, within {grace_seconds:g} s")
            _write_patiently(out / STOP_FILE, name, for_seconds=grace_seconds / 2)
            signal.setitimer(signal.ITIMER_REAL, grace_seconds)

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Stopped(
            f"training did not stop within its {grace_seconds:g} s of grace and was ended; run the same command to go "
            "on from the newest checkpoint, and give it more with grace_seconds in the cluster file"
        )

    def ask_to_save(number: int, frame: FrameType | None) -> None:
        print_line("training: SIGUSR2 received; saving a checkpoint after this step")
        with ignore_transient():
            write_text(out / SAVE_FILE, "")

    stopping = dict.fromkeys((signal.SIGTERM, signal.SIGUSR1), ask_to_stop)
    handlers = {**stopping, signal.SIGUSR2: ask_to_save, signal.SIGALRM: give_up}
    try:
        with _handled(handlers):
            yield
    finally:
        with ignore_transient():  # or this would hide why the block has ended
            (out / STOP_FILE).unlink(missing_ok=True)
    if asked:
        raise Stopped(
            "the training has ended, and what comes after it was asked to wait; run the same command to go on"
        )


def _write_patiently(path: Path, text: str, *, for_seconds: float) -> None:
    waits = fixed_waits(SECONDS_BETWEEN_POLLS, for_seconds=for_seconds)  # for a file system that is away
    retry(lambda: write_text(path, text), waits=waits, is_transient=is_transient)


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Handle signals so during the block; no timer is left at its end."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _may_set_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
