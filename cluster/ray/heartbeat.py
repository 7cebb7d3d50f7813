"""Whether hosts still answer: who is cut off is told by nobody else for a minute (Ray 2.60 took 64 s).

A short cut is worth waiting for, because TCP mends it and no work is lost. A long one ends the attempt. The ranks' side
gives up first, so that those which were cut off have ended when others take their place.
"""

import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from cluster.host.network import answers

SECONDS_BETWEEN_LOOKS = 1.0
ANSWER_SECONDS = 2.0
"""A lost SYN is sent again after one second."""

RANK_GIVES_UP_SECONDS = 25.0
"""A rank that has not reached its driver's host for so long ends itself: more than a cut of 20 s, and what TCP needs to
get over it."""

DRIVER_GIVES_UP_SECONDS = 30.0
"""A host that has not answered the driver for so long is lost: later than its own ranks give up, looks included."""

MOST_LOOKS = 64
"""At the same time."""


def unreachable(addresses: Iterable[str]) -> frozenset[str]:
    """Those of some addresses, `host:port`, where nothing answers now."""
    asked = sorted(set(addresses))
    with ThreadPoolExecutor(max_workers=MOST_LOOKS) as aside:
        replies = aside.map(lambda address: answers(address, timeout_seconds=ANSWER_SECONDS), asked)
        return frozenset(address for address, reply in zip(asked, replies, strict=True) if not reply)


class Pulse:
    """Looks again and again, in a thread of its own; a context manager."""

    def __init__(self, addresses: Collection[str], *, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._answered = dict.fromkeys(addresses, time.monotonic())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def silent(self) -> frozenset[str]:
        """Those that have not answered within the limit, however long this process has slept."""
        now = time.monotonic()
        return frozenset(address for address, when in self._answered.items() if now - when > self._limit)

    def _look(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_LOOKS):
            now, silent = time.monotonic(), unreachable(self._answered)
            for address in self._answered.keys() - silent:
                self._answered[address] = now
