"""How a running training is asked to save, or to stop: a file beside the metrics, or a signal to a rank itself.

Whoever started the ranks may be on another machine, so a file in the run's directory carries its wish; rank 0 looks
for it, and the loop tells the others in the collective it makes anyway.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from cluster.host.console import say
from cluster.host.files import write_text
from configs.base import UserError
from pipeline.runs.retry import RESUME_ME

STOP_FILE = ".stop"
SAVE_FILE = ".save"
RESIZE_FILE = ".resize"
SECONDS_BETWEEN_LOOKS = 0.25


class Stopped(UserError):
    """Training was asked to stop, and has saved what it did."""

    exit_code = RESUME_ME


@dataclass(frozen=True)
class Wishes:
    """What is wanted of training, besides going on."""

    stop: bool = False
    """Save, and end."""

    save: bool = False
    """Save, and go on."""

    resize: bool = False
    """Save, and end to be started again on another number of ranks."""


class Requests:
    """What one rank knows of others' wishes."""

    def __init__(self, out: Path, *, watches_files: bool, on_look: Callable[[], None] = lambda: None) -> None:
        """`on_look` is called as often as files are looked for, and may raise."""
        self._out, self._watches, self._on_look = out, watches_files, on_look
        self._signalled, self._seen, self._looked = False, Wishes(), 0.0
        if watches_files:
            (out / RESIZE_FILE).unlink(missing_ok=True)  # the ranks have just been started, as many as there are to be
        for number in (signal.SIGTERM, signal.SIGUSR1) if _may_set_signals() else ():
            if getattr(signal.getsignal(number), "__module__", "") != __name__:  # else this is the asking process
                signal.signal(number, self._signal)

    def look(self) -> Wishes:
        """What is wanted by now. Looks for files at most four times a second."""
        if self._watches and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self._on_look()
            self._seen = Wishes(*((self._out / name).exists() for name in (STOP_FILE, SAVE_FILE, RESIZE_FILE)))
        return replace(self._seen, stop=self._seen.stop or self._signalled)

    def saved(self) -> None:
        """A save has begun, which is what was wanted."""
        if self._watches and self._seen.save:
            (self._out / SAVE_FILE).unlink(missing_ok=True)
            self._seen = replace(self._seen, save=False)

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def ask_to_resize(out: Path) -> None:
    """Ask the training in `out` to save and end, to be started again on another number of ranks."""
    write_text(out / RESIZE_FILE, "")


@contextmanager
def stop_on_signal(out: Path, *, grace_seconds: float) -> Iterator[None]:
    """During the block, SIGTERM and SIGUSR1 ask the ranks to save and stop; after the grace the block is left.
    SIGUSR2 asks them to save and go on.

    Raises Stopped in the block when the grace is over, and at its end if it ends well all the same. Signals reach the
    main thread only; in another, this does nothing.
    """
    for name in (STOP_FILE, SAVE_FILE, RESIZE_FILE):
        (out / name).unlink(missing_ok=True)
    if not _may_set_signals():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if not (out / STOP_FILE).exists():
            name = signal.Signals(number).name
            say(f"training: {name} received; saving a checkpoint and stopping, within {grace_seconds:g} s")
            write_text(out / STOP_FILE, name)
            signal.setitimer(signal.ITIMER_REAL, grace_seconds)

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Stopped(
            f"training did not stop within its {grace_seconds:g} s of grace and was ended; run the same command to go "
            "on from the newest checkpoint, and give it more with grace_seconds in the cluster file"
        )

    def save(number: int, frame: FrameType | None) -> None:
        say("training: SIGUSR2 received; saving a checkpoint after this step")
        write_text(out / SAVE_FILE, "")

    handlers = {signal.SIGTERM: ask, signal.SIGUSR1: ask, signal.SIGUSR2: save, signal.SIGALRM: give_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        asked = (out / STOP_FILE).exists()
        (out / STOP_FILE).unlink(missing_ok=True)
    if asked:
        raise Stopped(
            "the training has ended, and what comes after it was asked to wait; run the same command to go on"
        )


def _may_set_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
