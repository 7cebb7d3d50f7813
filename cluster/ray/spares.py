"""Warm spare processes of a gang, with the libraries loaded, which take the places of ranks that are lost."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.executor import Rank
from cluster.host.console import print_line
from cluster.ray.connection import first_line
from cluster.ray.failures import PROCESS_DEATHS
from cluster.ray.rank import RankLocation

START_AFTER_SECONDS = 10.0
"""The ranks' own start comes first: it keeps both of two cores busy for so long."""


class Spares:
    """The spares of a gang: at most one a rank, warmed up one after another on each node."""

    def __init__(self, start_process: Callable[[int], Any], warm: Callable[[], None], *, label: str) -> None:
        """`start_process` starts a spare process for a rank by its index; `warm` is called in it."""
        self._start_process, self._warm, self._label = start_process, warm, label
        self._ready: dict[int, Any] = {}
        self._warming: dict[str, tuple[int, Any, Any]] = {}  # by node: rank, actor, call
        self._failed: set[int] = set()

    def start_missing(self, ranks: Sequence[Rank], locations: Sequence[RankLocation], *, since: float) -> None:
        """Start the spares that are due, and note those that are ready; returns at once.

        The ranks have worked since `since`, by the monotonic clock.
        """
        if time.monotonic() - since < START_AFTER_SECONDS:
            return
        for node in list(self._warming):
            self._note_if_ready(node)
        for rank, location in zip(ranks, locations, strict=True):
            if rank.index not in self._ready.keys() | self._failed and location.node not in self._warming:
                actor = self._start_process(rank.index)
                self._warming[location.node] = (
                    rank.index,
                    actor,
                    actor.stand_by.remote(self._warm, rank, location.devices),
                )

    def take_ready(self) -> dict[int, Any]:
        """Hand out the spares that are ready, by rank; kills the others and forgets all."""
        ready, self._ready = self._ready, {}
        self.kill_all()
        return ready

    def kill_all(self) -> None:
        """Kill all spares that were not handed out, and forget which could not be started."""
        for actor in (*self._ready.values(), *(actor for _, actor, _ in self._warming.values())):
            ray.kill(actor)
        self._ready, self._warming, self._failed = {}, {}, set()

    def _note_if_ready(self, node: str) -> None:
        index, actor, call = self._warming[node]
        if not ray.wait([call], timeout=0)[0]:
            return
        del self._warming[node]
        try:
            ray.get(call)
            self._ready[index] = actor
        except (*PROCESS_DEATHS, RayTaskError) as error:
            self._failed.add(index)
            ray.kill(actor)
            print_line(
                f"{self._label}: no spare process for rank {index} ({first_line(error)}); its loss will take longer"
            )
