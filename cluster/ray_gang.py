"""A gang on Ray: a placement group, an actor a rank, spares, and the end of all when one ends badly."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.executor import Rank
from cluster.placement import Placement
from cluster.ray_places import gpus_per_rank, reserve, stands
from cluster.ray_rank import RankProcess, Whereabouts
from cluster.ray_spares import Spares
from cluster.ray_verdict import DEATHS, RanksLost, lost, verdict
from cluster.ray_wait import Watch
from configs.base import UserError

R = TypeVar("R")
A = TypeVar("A")

LAST_WORDS_SECONDS = 5.0
"""How long to wait, once a rank has failed without a cause of its own, for the death of a peer that explains it."""


class Gang:
    """What a gang holds on Ray from one attempt to the next; a context manager that leaves no process behind."""

    def __init__(self, placement: Placement, *, label: str, warm: Callable[[], None] | None) -> None:
        self._placement, self._label = placement, label
        self._group: PlacementGroup | None = None
        self._actors: list[Any] = []
        self._where: list[Whereabouts] = []
        self._spares = Spares(self._make_spare, warm, label=label) if warm and placement.warm_spares else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def run(self, fn: Callable[[Rank, A], R], argument: A, *, attempt: int) -> R:
        """Rank 0's result. Raises RanksLost if a process died, else what a rank raised."""
        try:
            self._assemble()
            host, port = self._where[0].address, self._where[0].port
            placement = self._placement
            world = placement.num_ranks, placement.device, placement.cpus_per_rank, host, port, attempt
            ranks = [Rank(index, *world) for index in range(placement.num_ranks)]
            calls = [actor.run.remote(fn, rank, argument) for actor, rank in zip(self._actors, ranks, strict=True)]
            result: R = self._together(calls, ranks)
            return result
        finally:
            self._end_ranks()

    def _assemble(self) -> None:
        """Have a process for each rank, on nodes that live."""
        self._hold()
        try:
            self._start()
        except RanksLost:
            if self._group is None or stands(self._group):
                raise
            self._end_ranks()  # the death of a node becomes known after that of its processes
            self._hold()
            self._start()

    def _hold(self) -> None:
        """Have a placement group: that of the attempt before, if its nodes live."""
        if self._group is not None and not stands(self._group):
            self._release()
        if self._group is None:
            self._group = reserve(self._placement, label=self._label)

    def _release(self) -> None:
        if self._spares:
            self._spares.end()
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _end_ranks(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start(self) -> None:
        """A process for each rank, a spare where there is one; returns when all have said where they are."""
        indices = range(self._placement.num_ranks)
        before: list[Whereabouts | None] = [*self._where] or [None for _ in indices]
        spares = self._spares.take() if self._spares else {}
        self._actors = [spares[index] if index in spares else self._make(index) for index in indices]
        reports = [actor.report.remote(last) for actor, last in zip(self._actors, before, strict=True)]
        self._where = [self._locate(i, report, before[i], is_spare=i in spares) for i, report in enumerate(reports)]

    def _locate(self, index: int, report: Any, before: Whereabouts | None, *, is_spare: bool) -> Whereabouts:
        try:
            where: Whereabouts = self._wait_for(report)
            return where
        except DEATHS as error:
            if not is_spare:
                raise lost(index, None, error) from None
        self._actors[index] = self._make(index)  # in place of a spare that has died unseen
        return self._locate(index, self._actors[index].report.remote(before), before, is_spare=False)

    def _make(self, index: int) -> Any:
        placement = self._placement
        return self._actor(index, num_cpus=placement.cpus_per_rank, num_gpus=gpus_per_rank(placement))

    def _make_spare(self, index: int) -> Any:
        return self._actor(index, num_cpus=0, num_gpus=0)  # it takes no place of its own

    def _actor(self, index: int, *, num_cpus: int, num_gpus: int) -> Any:
        assert self._group is not None
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": strategy}
        return ray.remote(RankProcess).options(**options).remote()

    def _wait_for(self, reference: Any) -> Any:
        watch, deadline = Watch(self._label), time.monotonic() + self._placement.start_timeout_seconds
        while not watch.turn([reference])[0]:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self._label}: the processes of the ranks did not start in "
                    f"{self._placement.start_timeout_seconds:g} s; look at the nodes' load and at Ray's logs"
                )
        return ray.get(reference)

    def _together(self, calls: list[Any], ranks: list[Rank]) -> Any:
        """The first call's result once all have returned; the most telling failure as soon as it is known."""
        watch, began, pending = Watch(self._label), time.monotonic(), calls
        failures: dict[int, Exception] = {}
        deadline = float("inf")
        while pending and time.monotonic() < deadline:
            ready, pending = watch.turn(pending)
            for call in ready:
                try:
                    ray.get(call)
                except (*DEATHS, RayTaskError) as error:
                    failures[calls.index(call)] = error
                    deadline = min(deadline, time.monotonic() + LAST_WORDS_SECONDS)
            if answer := verdict(failures, self._where):
                raise answer from None
            if self._spares and pending and not failures and ranks[0].attempt < self._placement.max_restarts:
                self._spares.tend(ranks, self._where, since=began)
        if failures:
            raise next(iter(failures.values()))
        return ray.get(calls[0])
