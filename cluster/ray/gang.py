"""A gang on Ray: a placement group, an actor a rank, spares, and the end of all when one ends badly."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.executor import Rank
from cluster.host.limits import num_memory_kills
from cluster.placement import Placement
from cluster.ray.bundles import Places, gpus_per_rank, release, reserve, stand
from cluster.ray.capacity import Growth, Room
from cluster.ray.failures import DEATHS, RanksLost, check_memory, last_verdict, lost, verdict
from cluster.ray.heartbeat import DRIVER_GIVES_UP_SECONDS, Pulse
from cluster.ray.nodes import home, live_nodes
from cluster.ray.rank import RankProcess, Whereabouts
from cluster.ray.spares import Spares
from cluster.ray.waiting import Watch
from configs.base import StartUpError

R = TypeVar("R")
A = TypeVar("A")

LAST_WORDS_SECONDS = 5.0
"""How long to wait, once a rank has failed without a cause of its own, for the death of a peer that explains it."""


class Gang:
    """What a gang holds on Ray from one attempt to the next; a context manager that leaves no process behind."""

    def __init__(self, placement: Placement, room: Room, *, label: str, warm: Callable[[], None] | None) -> None:
        self._placement, self._room, self._label = placement, room, label
        self._home = home()
        self._places: Places | None = None
        self._pulse: Pulse | None = None
        self._held = ExitStack()
        self._actors: list[Any] = []
        self._where: list[Whereabouts] = []
        self._victim: Whereabouts | None = None
        """The rank that was lost in the attempt before."""
        self._spares = Spares(self._make_spare, warm, label=label) if warm and placement.warm_spares else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def run(
        self,
        fn: Callable[[Rank, A], R],
        argument: A,
        *,
        attempt: int,
        is_last: bool,
        resize: Callable[[], None] | None,
    ) -> R:
        """Rank 0's result. Raises RanksLost if a process died or was cut off, else what a rank raised."""
        try:
            self._assemble()
            host, port, number = self._where[0].address, self._where[0].port, len(self._where)
            placement = self._placement
            world = number, placement.device, placement.cpus_per_rank, host, port, attempt
            ranks = [Rank(index, *world) for index in range(number)]
            calls = [actor.run.remote(fn, rank, argument) for actor, rank in zip(self._actors, ranks, strict=True)]
            result: R = self._together(calls, [] if is_last else ranks, resize)
            return result
        except RanksLost as error:
            self._victim = error.where
            raise
        finally:
            self._end_ranks()

    def check_memory(self) -> None:
        """Raise OutOfMemory if the rank that was lost had no memory left, as far as its node can still be asked."""
        if self._victim and self._victim.node in {node.id for node in self._room.nodes()}:
            there = NodeAffinitySchedulingStrategy(self._victim.node, soft=False)
            count = ray.remote(num_memory_kills).options(num_cpus=0, scheduling_strategy=there).remote()
            if ray.wait([count], timeout=LAST_WORDS_SECONDS)[0]:
                check_memory(self._victim, node=self._victim.node, kills=ray.get(count))

    def _assemble(self) -> None:
        """Have a process for each rank, on nodes that live."""
        self._hold()
        try:
            self._start()
        except RanksLost:
            if self._places is None or stand(self._places, self._room):
                raise
            self._end_ranks()  # the death of a node becomes known after that of its processes
            self._hold()
            self._start()

    def _hold(self) -> None:
        """Have places: those of the attempt before, if ranks may still be on all their nodes."""
        if self._places is not None and not stand(self._places, self._room):
            self.release()
        if self._places is None:
            self._places = reserve(self._room, self._placement, before=len(self._where), label=self._label)
            addresses = {node.id: node.address for node in live_nodes() if node.id != self._home.id}
            others = {addresses[node] for node in self._places.nodes if node in addresses}
            self._pulse = self._held.enter_context(Pulse(others, limit_seconds=DRIVER_GIVES_UP_SECONDS))

    def release(self) -> None:
        """Give the places back."""
        if self._spares:
            self._spares.end()
        self._held.close()
        if self._places is not None:
            release(self._places.group)
            self._places = None

    def _end_ranks(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start(self) -> None:
        """A process for each rank, a spare where there is one; returns when all have said where they are.

        Raises OutOfMemory if the attempt before lost a rank on a node that has run out of memory since.
        """
        assert self._places is not None
        nodes, old = self._places.nodes, self._where
        before = [[one for one in old if one.node == node] for node in nodes]
        spares = self._spares.take() if self._spares else {}
        self._actors = [spares[index] if index in spares else self._make(index) for index in range(len(nodes))]
        reports = [actor.report.remote(ended) for actor, ended in zip(self._actors, before, strict=True)]
        self._where = [self._locate(i, report, before[i], is_spare=i in spares) for i, report in enumerate(reports)]
        for where in self._where if self._victim else ():
            check_memory(self._victim, node=where.node, kills=where.memory_kills)
        self._victim = None

    def _locate(self, index: int, report: Any, before: Sequence[Whereabouts], *, is_spare: bool) -> Whereabouts:
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
        assert self._places is not None
        strategy = PlacementGroupSchedulingStrategy(self._places.group, placement_group_bundle_index=index)
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": strategy}
        is_away = self._places.nodes[index] != self._home.id
        return ray.remote(RankProcess).options(**options).remote(self._home.address if is_away else None)

    def _wait_for(self, reference: Any) -> Any:
        watch, deadline = Watch(self._label), time.monotonic() + self._placement.start_timeout_seconds
        while not watch.turn([reference])[0]:
            self._check_pulse()
            if time.monotonic() > deadline:
                raise StartUpError(
                    f"{self._label}: the processes of the ranks did not start in "
                    f"{self._placement.start_timeout_seconds:g} s; look at the nodes' load and at Ray's logs"
                )
        return ray.get(reference)

    def _check_pulse(self) -> None:
        """Raise RanksLost if a host has not answered for too long."""
        assert self._pulse is not None
        for address in self._pulse.silent():
            host = address.rpartition(":")[0]
            where = next((one for one in self._where if one.address == host), None)
            name = f"{where.host} ({host})" if where else host
            raise RanksLost(f"{name} has not answered for {DRIVER_GIVES_UP_SECONDS:g} s", where)

    def _check_nodes(self) -> None:
        """Raise RanksLost if a rank's node is gone: its peers fail at once, but Ray tells of it after 5 to 15 s."""
        alive = {node.id for node in self._room.alive()}
        for index, where in enumerate(self._where):
            if where.node not in alive:
                raise RanksLost(f"rank {index}'s node, {where.host} ({where.address}), is gone", where)

    def _together(self, calls: list[Any], ranks: list[Rank], resize: Callable[[], None] | None) -> Any:
        """The first call's result once all have returned; the most telling failure as soon as it is known.

        `ranks`: those to make spares for.
        """
        watch, began, pending = Watch(self._label), time.monotonic(), calls
        growth = Growth(self._room, number=len(calls), resize=resize)
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
            self._check_pulse()
            if failures:
                self._check_nodes()
            if pending and not failures:
                growth.look()
                if self._spares and ranks:
                    self._spares.tend(ranks, self._where, since=began)
        if failures:
            raise last_verdict(failures) from None
        return ray.get(calls[0])
