"""A gang on Ray: one actor a rank on a placement group; if a rank is lost, all are ended and restarted together.

Of a pool with members the ranks of the first come first, then those of the second, and so on.

What happens when a rank dies, in order:

1. Detect: `Gang._wait_for_ranks` waits for the calls of all ranks. The call of a dead process fails; a host that is cut
   off misses its heartbeats (`heartbeat.py`); a node that Ray has lost is no longer among those of `capacity.py`.
2. Classify: `failures.py` finds the cause among the failures, for which the death of a peer may come up to
   FAILURE_SETTLE_SECONDS later. An error of the user or out of memory ends the run; RanksLost leads to a restart.
3. End the others: `Gang.run` kills the actors of all ranks. In `rank.py`, the new process of a rank first waits until
   the old processes of its node are gone, and ranks that are cut off from the driver end themselves.
4. Back off: `RayExecutor.gang` in `executor.py` notes the host's failure (`quarantine.py`) and waits: longer each time
   that the same host fails.
5. Restart: `Gang.run` keeps the bundles if their nodes are still valid, else reserves others (`bundles.py`), for fewer
   ranks if the pool is elastic and no node comes in time (`capacity.py`). Warm spares, where there are any, take the
   ranks' places (`spares.py`). If the lost rank's node has counted a memory kill meanwhile, it was OutOfMemory.
6. Give up: after `max_restarts` restarts, `RayExecutor.gang` asks once more for memory kills and raises
   InfrastructureError.

Ranks that make way, for more of them or to leave a slow host (`ResizeCheck` in `capacity.py`), save their work, raise
Resized and are restarted too; it counts as no loss.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.executor import Rank
from cluster.host.limits import num_memory_kills
from cluster.host.processes import StuckProcess
from cluster.members import distinct_nodes
from cluster.placement import Placement
from cluster.rank_output import Ended, last_words, output_file, read_end, read_signal
from cluster.ray.bundles import Bundles, are_still_valid, rank_resources, release_group, reserve_bundles
from cluster.ray.capacity import Capacity, ResizeCheck
from cluster.ray.connection import RayWaiter
from cluster.ray.failures import (
    PROCESS_DEATHS,
    RanksLost,
    check_memory_kills,
    classify_death,
    classify_failure,
    final_failure,
)
from cluster.ray.heartbeat import DRIVER_GIVES_UP_SECONDS, Heartbeat
from cluster.ray.nodes import driver_node, live_nodes
from cluster.ray.rank import RankLocation, RankProcess
from cluster.ray.ray_watch import is_ray_gone
from cluster.ray.spares import Spares
from configs.base import StartUpError

R = TypeVar("R")
A = TypeVar("A")

FAILURE_SETTLE_SECONDS = 5.0
"""How long to wait, once a rank has failed without a cause of its own, for the death of a peer that explains it."""


class Gang:
    """What a gang holds on Ray from one restart to the next; a context manager that leaves no process behind."""

    def __init__(
        self,
        placement: Placement,
        capacity: Capacity,
        *,
        label: str,
        warm: Callable[[], None] | None,
        output: Path | None,
    ) -> None:
        self._placement, self._capacity, self._label, self._output = placement, capacity, label, output
        self._driver_node = driver_node()
        self._bundles: Bundles | None = None
        self._heartbeat: Heartbeat | None = None
        self._held = ExitStack()
        self._actors: list[Any] = []
        self._locations: list[RankLocation] = []
        self._counts: tuple[int, ...] = ()
        """How many ranks of each member there are, or were before a restart."""
        self._lost_rank: RankLocation | None = None
        """The rank whose loss led to this restart."""
        self._spares = Spares(self._create_spare, warm, label=label) if warm and placement.warm_spares else None

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
        num_restarts: int,
        is_last: bool,
        resize: Callable[[], None] | None,
        slow_host: Callable[[], str | None] | None,
    ) -> R:
        """Start all ranks, wait for them, end them, and return rank 0's result.

        `is_last`: no restart will follow, so that spares are of no use. Raises RanksLost if a process died or was cut
        off, else what a rank raised.
        """
        try:
            self._start_on_valid_nodes()
            ranks = [self._rank(index, num_restarts) for index in range(len(self._locations))]
            calls = [
                actor.run.remote(fn, rank, argument, self._output)
                for actor, rank in zip(self._actors, ranks, strict=True)
            ]
            result: R = self._wait_for_ranks(calls, [] if is_last else ranks, resize, slow_host)
            return result
        except RanksLost as error:
            self._lost_rank = error.location
            self._quote_last_words(error)
            raise
        finally:
            self._end_ranks()

    def _member_of(self, index: int) -> int:
        return self._placement.member_of(index, self._counts)

    def _rank(self, index: int, num_restarts: int) -> Rank:
        member, first = self._member_of(index), self._locations[0]
        own = self._placement.of_member(member)
        world = len(self._locations), own.device, own.cpus_per_rank, first.address, first.port, num_restarts
        return Rank(index, *world, member=member)

    def _quote_last_words(self, error: RanksLost) -> None:
        """Add to an error what the rank printed last."""
        if error.rank is not None and self._output is not None:
            file = output_file(self._output, error.rank)
            by = f" by {name}" if (name := read_signal(file)) else ""
            error.last_words = f'{by}; it printed last: "{words}" ({file})' if (words := last_words(file)) else by

    def release(self) -> None:
        """Kill the spares, stop the heartbeats, and give the bundles back; of a Ray that is gone nothing is asked."""
        if self._spares and not is_ray_gone():
            self._spares.kill_all()
        self._held.close()
        if self._bundles is not None and not is_ray_gone():
            release_group(self._bundles.group)
            self._bundles = None

    def check_memory_kills(self) -> None:
        """Raise OutOfMemory if the OOM killer killed the lost rank, as far as its node can still be asked."""
        lost = self._lost_rank
        if lost and lost.node in {node.id for node in distinct_nodes(self._capacity.usable_nodes())}:
            on_its_node = NodeAffinitySchedulingStrategy(lost.node, soft=False)
            count = ray.remote(num_memory_kills).options(num_cpus=0, scheduling_strategy=on_its_node).remote()
            if ray.wait([count], timeout=FAILURE_SETTLE_SECONDS)[0]:
                check_memory_kills(lost, node=lost.node, kills=ray.get(count))

    def _start_on_valid_nodes(self) -> None:
        """Start a process for each rank, once more on other nodes if one of these turns out to be gone."""
        self._hold_bundles()
        try:
            self._start_ranks()
        except RanksLost:
            if self._bundles is None or are_still_valid(self._bundles, self._capacity):
                raise
            self._end_ranks()  # the death of a node becomes known after that of its processes
            self._hold_bundles()
            self._start_ranks()

    def _hold_bundles(self) -> None:
        """Keep the bundles if ranks may still be on all their nodes, else reserve others and send heartbeats there."""
        if self._bundles is not None and not are_still_valid(self._bundles, self._capacity):
            self.release()
        if self._bundles is None:
            self._bundles = reserve_bundles(self._capacity, self._placement, before=self._counts, label=self._label)
            self._counts = self._bundles.counts
            addresses = {node.id: node.address for node in live_nodes() if node.id != self._driver_node.id}
            remote = {addresses[node] for node in self._bundles.nodes if node in addresses}
            self._heartbeat = self._held.enter_context(Heartbeat(remote, limit_seconds=DRIVER_GIVES_UP_SECONDS))

    def _start_ranks(self) -> None:
        """Start a process for each rank, or take its spare, and wait until all have reported their locations.

        Raises OutOfMemory if a rank was lost before on a node whose kernel has killed processes for memory since.
        """
        assert self._bundles is not None
        nodes, old = self._bundles.nodes, self._locations
        previous = [[one for one in old if one.node == node] for node in nodes]
        spares = self._spares.take_ready() if self._spares else {}
        self._actors = [spares[i] if i in spares else self._create_rank(i) for i in range(len(nodes))]
        reports = [actor.report_location.remote(ended) for actor, ended in zip(self._actors, previous, strict=True)]
        self._locations = [
            self._wait_for_location(index, report, previous[index], is_spare=index in spares)
            for index, report in enumerate(reports)
        ]
        for location in self._locations if self._lost_rank else ():
            check_memory_kills(self._lost_rank, node=location.node, kills=location.memory_kills)
        self._lost_rank = None

    def _wait_for_location(
        self, index: int, report: Any, previous: Sequence[RankLocation], *, is_spare: bool
    ) -> RankLocation:
        try:
            location: RankLocation = self._wait_for_start(report)
            return location
        except RayTaskError as error:
            if not isinstance(error.cause, StuckProcess):
                raise
            stuck = previous[0]
            text = f"rank {index} cannot start on {stuck.host} ({stuck.address}): {error.cause}"
            raise RanksLost(text, stuck, rank=index, is_certain=True) from None
        except PROCESS_DEATHS as error:
            if not is_spare:
                raise classify_death(index, None, error) from None
        self._actors[index] = self._create_rank(index)  # in place of a spare that has died unseen
        report = self._actors[index].report_location.remote(previous)
        return self._wait_for_location(index, report, previous, is_spare=False)

    def _wait_for_start(self, reference: Any) -> Any:
        waiter, deadline = RayWaiter(self._label), time.monotonic() + self._placement.start_timeout_seconds
        while not waiter.wait([reference])[0]:
            self._check_heartbeats()
            if time.monotonic() > deadline:
                raise StartUpError(
                    f"{self._label}: the processes of the ranks did not start in "
                    f"{self._placement.start_timeout_seconds:g} s; look at the nodes' load and at Ray's logs"
                )
        return ray.get(reference)

    def _create_rank(self, index: int) -> Any:
        return self._create_actor(index, rank_resources(self._placement.of_member(self._member_of(index))))

    def _create_spare(self, index: int) -> Any:
        return self._create_actor(index, {})  # it takes nothing of its rank's bundle

    def _create_actor(self, index: int, resources: dict[str, float]) -> Any:
        assert self._bundles is not None
        strategy = PlacementGroupSchedulingStrategy(self._bundles.group, placement_group_bundle_index=index)
        others = {name: number for name, number in resources.items() if name not in ("CPU", "GPU")}
        options = {
            "num_cpus": resources.get("CPU", 0),
            "num_gpus": resources.get("GPU", 0),
            "resources": others,
            "scheduling_strategy": strategy,
        }
        is_remote = self._bundles.nodes[index] != self._driver_node.id
        return ray.remote(RankProcess).options(**options).remote(self._driver_node.address if is_remote else None)

    def _end_ranks(self) -> None:
        for actor in self._actors if not is_ray_gone() else ():
            ray.kill(actor)
        self._actors = []

    def _wait_for_ranks(
        self,
        calls: list[Any],
        ranks: list[Rank],
        resize: Callable[[], None] | None,
        slow_host: Callable[[], str | None] | None,
    ) -> Any:
        """Return the first call's result once all have returned; raise the cause of a failure as soon as it is known.

        `ranks`: those to keep spares for.
        """
        waiter, began, pending = RayWaiter(self._label), time.monotonic(), calls
        hosts = [one.host for one in self._locations]
        resize_check = ResizeCheck(self._capacity, hosts, self._counts, resize=resize, slow_host=slow_host)
        failures: dict[int, Exception] = {}
        ends: dict[int, Ended] = {}
        deadline = float("inf")
        while pending and time.monotonic() < deadline:
            ready, pending = waiter.wait(pending)
            for call in ready:
                try:
                    ray.get(call)
                except (*PROCESS_DEATHS, RayTaskError) as error:
                    failures[index := calls.index(call)] = error
                    if self._output is not None and (end := read_end(output_file(self._output, index))):
                        ends[index] = end
                    deadline = min(deadline, time.monotonic() + FAILURE_SETTLE_SECONDS)
            if failure := classify_failure(failures, self._locations, ends):
                raise failure from None
            self._check_heartbeats()
            if failures:
                self._check_nodes()
            if pending and not failures:
                resize_check.poll()
                if self._spares and ranks:
                    self._spares.start_missing(ranks, self._locations, since=began)
        if failures:
            raise final_failure(failures, self._locations, ends) from None
        return ray.get(calls[0])

    def _check_heartbeats(self) -> None:
        """Raise RanksLost if a host has not answered for too long."""
        assert self._heartbeat is not None
        for address in self._heartbeat.silent():
            host = address.rpartition(":")[0]
            location = next((one for one in self._locations if one.address == host), None)
            name = f"{location.host} ({host})" if location else host
            raise RanksLost(f"{name} has not answered for {DRIVER_GIVES_UP_SECONDS:g} s", location)

    def _check_nodes(self) -> None:
        """Raise RanksLost if a rank's node is gone: its peers fail at once, but its own call only after 5 to 15 s."""
        alive = {node.id for node in distinct_nodes(self._capacity.answering_nodes())}
        for index, location in enumerate(self._locations):
            if location.node not in alive:
                raise RanksLost(
                    f"rank {index}'s node, {location.host} ({location.address}), is gone", location, rank=index
                )
