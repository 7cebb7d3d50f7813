"""An end to hangs: a rank that makes no progress writes down where every thread is, and ends its process.

All ranks wait for each other in every step, so when one hangs all do. The first whose time is up leaves a mark; the
others see it and write their stacks too. A thread of the interpreter does it, or, where even that cannot run, one of
faulthandler's, which needs no interpreter.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from cluster.executor import Rank
from training.log.notices import notify

STACKS = "stacks"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_THE_OTHERS = 10.0
"""How long a rank whose stack is written waits for those of the others before it ends."""

FIRST_STEP = 3.0
"""The first step may compile, so it gets so many times the time."""


class Watchdog:
    """Watches one rank; a context manager. `beat` says that it lives."""

    def __init__(self, out: Path, rank: Rank, *, timeout_seconds: float) -> None:
        self._out, self._rank, self._timeout = out, rank, timeout_seconds
        self._directory = out / STACKS / f"attempt-{rank.attempt}-{rank.port}"
        self._what, self._deadline = "", 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.beat("the start", patience=FIRST_STEP)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        faulthandler.cancel_dump_traceback_later()

    def beat(self, what: str, *, patience: float = 1.0) -> None:
        """Say what begins now; it may take `patience` times the timeout."""
        self._what, self._deadline = what, time.monotonic() + patience * self._timeout

    def _watch(self) -> None:
        while not self._done.wait(min(SECONDS_BETWEEN_LOOKS, self._timeout / 4)):
            left = self._deadline - time.monotonic()
            # re-armed while this thread can run; if it cannot, the deadline passes there
            faulthandler.dump_traceback_later(max(left, 0) + 2 * SECONDS_FOR_THE_OTHERS, exit=True)
            if left < 0 or self._directory.exists():
                self._end(overdue=left < 0)

    def _end(self, *, overdue: bool) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"rank-{self._rank.index:05d}.txt"
        with path.open("w", encoding="utf-8") as file:
            file.write(f"rank {self._rank.index} of {self._rank.world_size}, during {self._what}\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
            os.fsync(file.fileno())
        if overdue:
            text = (
                f"rank {self._rank.index} made no progress for {self._timeout:g} s, during {self._what}; the stack of "
                f"every rank is in {self._directory}"
            )
            notify(self._out, [text])
            print(text, file=sys.stderr, flush=True)
        self._wait_for_the_others()
        os._exit(1)

    def _wait_for_the_others(self) -> None:
        deadline = time.monotonic() + SECONDS_FOR_THE_OTHERS
        while len(list(self._directory.iterdir())) < self._rank.world_size and time.monotonic() < deadline:
            time.sleep(0.05)
