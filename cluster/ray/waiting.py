"""Waiting for Ray so that signal handlers run and the death of Ray is noticed."""

import time
from collections.abc import Sequence
from typing import Any

import ray

from cluster.ray.connection import SECONDS_BETWEEN_CHECKS, check_alive

TURN_SECONDS = 0.5
"""How long a signal handler may have to wait for Ray to return to Python."""


class Watch:
    """Waits in short turns."""

    def __init__(self, label: str) -> None:
        self._label, self._checked = label, time.monotonic()

    def turn(self, references: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Those that are ready, as soon as one is or after a while, and the rest.

        Raises InfrastructureError if Ray has died.
        """
        try:
            ready, rest = ray.wait(list(references), num_returns=1, timeout=TURN_SECONDS)
        except SystemError as error:  # Ray 2.60 so wraps what a signal handler has raised
            raise (error.__cause__ or error) from None
        if ready and rest:
            more, rest = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        if not ready:
            self.look()
        return ready, rest

    def look(self) -> None:
        """Raise InfrastructureError if Ray has died; looks only every few seconds."""
        if time.monotonic() - self._checked >= SECONDS_BETWEEN_CHECKS:
            check_alive(self._label)
            self._checked = time.monotonic()
