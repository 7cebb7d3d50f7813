"""How a running training is asked to stop: a file beside the metrics, or a signal to a rank itself.

Whoever started the ranks may be on another machine, so a file in the run's directory carries its wish; rank 0 looks
for it, and the loop tells the others in the collective it makes anyway.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cluster.files import write_text
from cluster.progress import say
from configs.base import UserError

STOP_FILE = ".stop"
SECONDS_BETWEEN_LOOKS = 0.25
RESUME_ME = 75
"""Exit code of a run that stopped for others' sake and goes on when started again: sysexits' EX_TEMPFAIL."""


class Stopped(UserError):
    """Training was asked to stop, and has saved what it did."""

    exit_code = RESUME_ME


class StopRequest:
    """What one rank knows of a wish to stop."""

    def __init__(self, out: Path, *, watches_file: bool) -> None:
        self._path, self._watches = out / STOP_FILE, watches_file
        self._asked, self._looked = False, 0.0
        for number in (signal.SIGTERM, signal.SIGUSR1) if _may_set_signals() else ():
            if getattr(signal.getsignal(number), "__module__", "") != __name__:  # else this is the asking process
                signal.signal(number, self._signalled)

    def asked(self) -> bool:
        """Whether this rank has heard of it. Looks for the file at most four times a second."""
        if self._watches and not self._asked and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self._asked = self._path.exists()
        return self._asked

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


@contextmanager
def stop_on_signal(out: Path, *, grace_seconds: float) -> Iterator[None]:
    """During the block, SIGTERM and SIGUSR1 ask the ranks to save and stop; after the grace the block is left.

    Raises Stopped in the block when the grace is over, and at its end if it ends well all the same. Signals reach the
    main thread only; in another, this does nothing.
    """
    (out / STOP_FILE).unlink(missing_ok=True)
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

    handlers = {signal.SIGTERM: ask, signal.SIGUSR1: ask, signal.SIGALRM: give_up}
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
