"""Heartbeats between a gang's driver and its ranks' hosts; Ray 2.60 itself took 64 s to notice a host that is cut off.

A heartbeat is a TCP connection to the raylet of a host, every second. A short cut is worth waiting for, because TCP
mends it and no work is lost; a long one ends all ranks. Those of the ranks that are cut off give up before the driver
does, so that they have ended when others take their place. This module does not import ray.
"""

import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from cluster.host.network import answers

SECONDS_BETWEEN_BEATS = 1.0
ANSWER_TIMEOUT_SECONDS = 2.0
"""A lost SYN is sent again after one second."""

RANK_GIVES_UP_SECONDS = 25.0
"""A rank that has not reached its driver's host for so long ends itself: more than a cut of 20 s, and what TCP needs to
get over it."""

DRIVER_GIVES_UP_SECONDS = 30.0
"""A host that has not answered the driver for so long is lost: later than its own ranks give up, the time that one
heartbeat takes included."""

MAX_CONCURRENT_BEATS = 64


def unreachable(addresses: Iterable[str]) -> frozenset[str]:
    """Return those of some addresses, `host:port`, where nothing answers now."""
    asked = sorted(set(addresses))
    with ThreadPoolExecutor(max_workers=MAX_CONCURRENT_BEATS) as pool:
        replies = pool.map(lambda address: answers(address, timeout_seconds=ANSWER_TIMEOUT_SECONDS), asked)
        return frozenset(address for address, reply in zip(asked, replies, strict=True) if not reply)


class Heartbeat:
    """Sends heartbeats to some addresses from a thread of its own; a context manager."""

    def __init__(self, addresses: Collection[str], *, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._answered = dict.fromkeys(addresses, time.monotonic())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def silent(self) -> frozenset[str]:
        """Return the addresses that have not answered within the limit, however long this process has slept."""
        now = time.monotonic()
        return frozenset(address for address, when in self._answered.items() if now - when > self._limit)

    def _beat(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_BEATS):
            now, silent = time.monotonic(), unreachable(self._answered)
            for address in self._answered.keys() - silent:
                self._answered[address] = now
