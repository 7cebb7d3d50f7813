"""Spare processes of a gang, with the libraries loaded, which take the places of ranks that are lost."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.executor import Rank
from cluster.host.console import say
from cluster.ray.connection import first_line
from cluster.ray.failures import DEATHS
from cluster.ray.rank import Whereabouts

START_AFTER_SECONDS = 10.0
"""The ranks' own start comes first: it takes both of two cores for so long."""


class Spares:
    """One a rank at most, made one after another on a node."""

    def __init__(self, make: Callable[[int], Any], warm: Callable[[], None], *, label: str) -> None:
        """`make` starts the process of a rank by its index."""
        self._make, self._warm, self._label = make, warm, label
        self._ready: dict[int, Any] = {}
        self._warming: dict[str, tuple[int, Any, Any]] = {}  # by node: rank, actor, call
        self._failed: set[int] = set()

    def tend(self, ranks: Sequence[Rank], where: Sequence[Whereabouts], *, since: float) -> None:
        """Start what is due; returns at once. The ranks have been at work `since` then, by the monotonic clock."""
        if time.monotonic() - since < START_AFTER_SECONDS:
            return
        for node in list(self._warming):
            self._look(node)
        for rank, place in zip(ranks, where, strict=True):
            if rank.index not in self._ready.keys() | self._failed and place.node not in self._warming:
                actor = self._make(rank.index)
                self._warming[place.node] = rank.index, actor, actor.stand_by.remote(self._warm, rank, place.gpus)

    def take(self) -> dict[int, Any]:
        """The spares that are ready, by rank; kills those that are not. Begins anew."""
        ready, self._ready = self._ready, {}
        self.end()
        return ready

    def end(self) -> None:
        """Kill them."""
        for actor in (*self._ready.values(), *(actor for _, actor, _ in self._warming.values())):
            ray.kill(actor)
        self._ready, self._warming, self._failed = {}, {}, set()

    def _look(self, node: str) -> None:
        index, actor, call = self._warming[node]
        if not ray.wait([call], timeout=0)[0]:
            return
        del self._warming[node]
        try:
            ray.get(call)
            self._ready[index] = actor
        except (*DEATHS, RayTaskError) as error:
            self._failed.add(index)
            ray.kill(actor)
            say(f"{self._label}: no spare process for rank {index} ({first_line(error)}); its loss will take longer")
