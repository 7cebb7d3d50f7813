"""Asking a store that may not answer for a while, without losing the run for it."""

import time
from collections.abc import Callable
from typing import TypeVar

from cluster.host.console import say
from cluster.leases.fence import LeaseLost
from configs.base import InfrastructureError
from configs.cluster import RetriesConfig

T = TypeVar("T")

SECONDS_OF_SILENCE = 15.0
"""A store that did not answer is left alone for so long."""


class Patience:
    """What a driver has with its store."""

    def __init__(self, retries: RetriesConfig) -> None:
        self._retries = retries
        self._silent_since: float | None = None

    def unless_silent(self, ask: Callable[[], object]) -> None:
        """Ask something that can wait: not while the store is left alone, and if it does not answer, not now."""
        if self._silent_since is not None and time.monotonic() < self._silent_since + SECONDS_OF_SILENCE:
            return
        try:
            ask()
            self._silent_since = None
        except LeaseLost:
            raise
        except InfrastructureError as error:
            if self._silent_since is None:
                say(f"{error}; the attempt goes on, and requests are heard when the store answers again")
            self._silent_since = time.monotonic()

    def until_done(self, ask: Callable[[], T]) -> T:
        """Ask something that must be, as often as the retries for infrastructure allow."""
        for number in range(self._retries.infrastructure):
            try:
                return ask()
            except LeaseLost:
                raise
            except InfrastructureError as error:
                say(f"{error}; trying again")
                time.sleep(min(SECONDS_OF_SILENCE, self._retries.backoff_seconds * 2**number))
        return ask()
