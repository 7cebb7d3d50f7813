"""The executor that is a Ray cluster: an independent item is a Ray task; a gang is one actor a rank (`gang.py`).

Ray Train was measured and left out: `benchmarks/gang_startup.py` compares the two in one run.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from cluster.device_errors import failure_kind, out_of_memory
from cluster.executor import Rank, Resized
from cluster.host.console import ProgressMeter, print_line
from cluster.host.retry import backoff_seconds
from cluster.machines import Node
from cluster.members import distinct_nodes
from cluster.placement import Placement
from cluster.ray.arrivals import lay_out
from cluster.ray.bundles import describe_resources, rank_resources, wait_for_room
from cluster.ray.capacity import Capacity
from cluster.ray.connection import SECONDS_BETWEEN_CHECKS, RayWaiter, connect, first_line, translate_ray_failures
from cluster.ray.device_workers import Worker, call_and_tell, end_workers
from cluster.ray.failures import DeviceFailed, RanksLost, host_of_error
from cluster.ray.gang import Gang
from cluster.ray.nodes import describe_nodes, label_selector, live_nodes, nodes_by_kind
from cluster.ray.quarantine import NodeFailures
from cluster.storage.errors import wait_until_answers
from configs.base import InfrastructureError, OutOfMemory, StartUpError, UserError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 30.0


class RayExecutor:
    """Implements Executor on a Ray cluster: `local` starts a private one for the life of this process."""

    def __init__(
        self,
        pool: PoolConfig,
        *,
        address: str,
        wandb: WandbConfig | None = None,
        failures: NodeFailures | None = None,
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        """`failures` remembers the nodes that fail; `avoid` names more hosts to leave out, by name or address."""
        self._pool, self._address, self._wandb = pool, address, wandb
        self._failures, self._avoid = failures or NodeFailures(None), avoid
        self.used_placement: Placement | None = None
        self._device_workers: set[Worker] = set()

    def placement(self) -> Placement:
        """Lay the pool out on the cluster's nodes.

        Where the cluster file says under `machines` that a cluster that was joined will have more nodes, they are asked
        of Ray's autoscaler and waited for, for `start_timeout_seconds`. Raises StartUpError if it has too little.
        """
        connect(self._address)
        self.used_placement = lay_out(self._pool, may_wait=self._address != "local", wandb=self._wandb)
        return self.used_placement

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """Apply `fn` to the items in Ray tasks, with at most two items in flight for each task that fits the nodes.

        Raises what `fn` raised; OutOfMemory or InfrastructureError if a worker dies, or its device fails, too often,
        StartUpError if there is no room for the first item, or the pool has no node, for `start_timeout_seconds`.
        """
        placement = self.used_placement or self.placement()
        device = {name: n for name, n in rank_resources(placement).items() if name != "CPU"} if on_device else {}
        need = {"CPU": float(placement.cpus_per_task), **device}
        if items:
            probes = self._submit_probes(fn, need, placement, num_items=len(items))
            wait_for_room(probes, need, timeout_seconds=placement.start_timeout_seconds, label=label)
        call = (call_and_tell, fn) if on_device else (fn,)  # on devices workers are told with the results
        submit = self._submitter(call, need, placement)
        num_slots = self._count_slots(placement)
        waiting: deque[tuple[T, Any]] = deque()
        upcoming = iter(items)
        # Items in flight when one fails are left to end by themselves: ray.cancel races with their end and aborts
        # the driver ("Check failed" in task_manager.cc, Ray 2.60).
        with ProgressMeter(label, len(items)) as meter:
            while True:
                more = islice(upcoming, 2 * max(1, num_slots) - len(waiting))
                waiting.extend((item, submit(item)) for item in more)
                if not waiting:
                    return
                item, reference = waiting.popleft()
                for num_failures in count(1):
                    try:
                        result = self._fetch_result(reference, placement, need, label=label)
                        break
                    except DeviceFailed as error:
                        self._failures.add(error.host, reason=str(error))
                        if num_failures > placement.max_restarts:
                            raise InfrastructureError(f"{label}: {error}, after {num_failures - 1} retries") from None
                        print_line(f"{label}: {error}; the item is done again")
                        submit = self._submitter(call, need, placement)
                        reference = submit(item)
                if on_device:
                    result, worker = result
                    self._device_workers.add(worker)
                yield result
                meter.advance()

    def release(self) -> None:
        """End the workers that `map` on devices kept, with what they have loaded there."""
        workers, self._device_workers = self._device_workers, set()
        end_workers(workers)

    def warm(self, fn: Callable[[T], R], *, num_items: int) -> None:
        """Have workers import what `fn` needs, for a `map` over so many items that follows; wait for nothing."""
        placement = self.used_placement or self.placement()
        self._submit_probes(fn, {"CPU": float(placement.cpus_per_task)}, placement, num_items=num_items)

    def _submit_probes(
        self, fn: Callable[[T], R], need: Mapping[str, float], placement: Placement, *, num_items: int
    ) -> list[Any]:
        """Submit tasks that import what `fn` needs, as many as there are items that may run at once."""
        submit = self._submitter((_import_only,), need, placement)
        return [submit(fn) for _ in range(min(num_items, max(1, self._count_slots(placement))))]

    def _submitter(
        self, call: Sequence[Callable[..., object]], need: Mapping[str, float], placement: Placement
    ) -> Callable[[Any], Any]:
        """Return what submits calls of a function, with those after it as first arguments, to one of the good nodes."""
        fn, *first = call
        submit: Any = (
            ray.remote(fn)
            .options(
                num_cpus=need["CPU"],
                num_gpus=need.get("GPU", 0),
                resources={name: number for name, number in need.items() if name not in ("CPU", "GPU")},
                max_retries=placement.max_restarts,
                label_selector=self._selector(),
            )
            .remote
        )
        return partial(submit, *first)

    def _count_slots(self, placement: Placement) -> int:
        """Return how many items the cores of the good nodes hold at once."""
        return sum(node.num_cpus // placement.cpus_per_task for node in self._good_nodes())

    def _good_nodes(self) -> list[Node]:
        """List the nodes of all kinds of the pool but those that keep failing, or all if there are no others."""
        nodes, bad = self._nodes(), self._failures.avoided() | self._avoid
        return [node for node in nodes if not node.is_in(bad)] or nodes

    def _nodes(self) -> list[Node]:
        return distinct_nodes(nodes_by_kind(self._pool))

    def _selector(self) -> dict[str, str] | None:
        good = {node.id for node in self._good_nodes()}
        return label_selector(self._pool, avoided=[node for node in self._nodes() if node.id not in good]) or None

    def _fetch_result(self, reference: Any, placement: Placement, need: Mapping[str, float], *, label: str) -> Any:
        """Wait for an item's result and return it. Raises as `map` does, and DeviceFailed."""
        try:
            with translate_ray_failures(label):
                self._wait_for_item(reference, placement, need, label=label)
                return ray.get(reference)
        except RayTaskError as error:
            kind = failure_kind(error.cause)
            if kind == "memory":
                raise out_of_memory(f"{label}: an item", first_line(error.cause)) from None
            if kind == "device":
                raise DeviceFailed(host_of_error(error), first_line(error.cause)) from None
            raise (error.cause if isinstance(error.cause, (UserError, OSError)) else error) from None
        except OutOfMemoryError as error:
            raise OutOfMemory(
                f"{label}: an item ran out of memory ({first_line(error)}); raise cpus_per_task in the cluster file, "
                "so that fewer run at once"
            ) from error
        except (WorkerCrashedError, RayActorError) as error:
            raise InfrastructureError(
                f"{label}: the worker of an item died {placement.max_restarts + 1} times ({first_line(error)}); if it "
                "ran out of memory raise cpus_per_task in the cluster file, so that fewer run at once"
            ) from error

    def _wait_for_item(self, reference: Any, placement: Placement, need: Mapping[str, float], *, label: str) -> None:
        """Wait until an item's task has ended. Raises StartUpError if no node of the pool holds it for too long."""
        waiter = RayWaiter(label)
        checked = seen = time.monotonic()
        while not waiter.wait([reference])[0]:
            now = time.monotonic()
            if now - checked < SECONDS_BETWEEN_CHECKS:
                continue
            checked = now
            if any(node.num_cpus >= need["CPU"] and (len(need) == 1 or node.num_gpus) for node in self._nodes()):
                seen = now
            if now - seen > placement.start_timeout_seconds:
                raise StartUpError(
                    f"{label}: no node of the pool that holds {describe_resources(need)} has lived for "
                    f"{placement.start_timeout_seconds:g} s; the cluster's nodes are {describe_nodes(live_nodes())}; "
                    "start others, or mend the pool's labels"
                )

    def gang(
        self,
        fn: Callable[[Rank, A], R],
        argument: A,
        *,
        label: str,
        warm: Callable[[], None] | None = None,
        resize: Callable[[], None] | None = None,
        output: Path | None = None,
        slow_host: Callable[[], str | None] | None = None,
    ) -> R:
        """Call `fn` once a rank, all at the same time, and return rank 0's result.

        When ranks are lost all are restarted, at most `max_restarts` times; `gang.py` tells the whole act. Restarts
        with more ranks (Resized) do not count.
        """
        placement = self.used_placement or self.placement()
        capacity = Capacity(self._pool, placement, failures=self._failures, avoid=self._avoid, label=label)
        losses: Counter[str] = Counter()  # by host
        num_restarts = 0
        with translate_ray_failures(label), Gang(placement, capacity, label=label, warm=warm, output=output) as gang:
            while True:
                is_last = losses.total() == placement.max_restarts
                try:
                    return gang.run(
                        fn,
                        argument,
                        num_restarts=num_restarts,
                        is_last=is_last,
                        resize=resize,
                        slow_host=slow_host,
                    )
                except Resized:
                    print_line(f"{label}: the ranks have made way; starting again")
                    gang.release()
                except RanksLost as lost:
                    host = lost.location.host if lost.location else ""
                    if host:
                        capacity.note_failure(host, reason=str(lost), is_certain=lost.is_certain)
                    if is_last:
                        gang.check_memory_kills()
                        raise InfrastructureError(lost.describe_end(label, placement.max_restarts)) from None
                    losses[host] += 1
                    print_line(f"{label}: {lost}; starting all ranks again")
                    if lost.by_storage and output is not None:
                        wait_until_answers(output.parent, notify=print_line)
                    _back_off(label, losses[host])
                num_restarts += 1


def _import_only(fn: Callable[..., object]) -> None:
    """Do nothing: a worker that is given `fn` has imported its module."""


def _back_off(label: str, num_losses: int) -> None:
    """Wait before a restart: not at all after a host's first loss, then exponentially: 1, 2, 4 s and so on."""
    if num_losses > 1:
        seconds = backoff_seconds(num_losses - 1, first=FIRST_BACKOFF_SECONDS, most=MAX_BACKOFF_SECONDS)
        RayWaiter(label).sleep(seconds)
