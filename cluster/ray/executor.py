"""The ray door: parallel items are Ray tasks; a gang is one Ray actor a rank on a placement group.

Ray Train was measured and left out: `benchmarks/gang_startup.py` compares the two in one run.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray

from cluster.executor import Rank, Resized
from cluster.host.console import Meter, say
from cluster.machines import described
from cluster.placement import Placement, TooFew, place
from cluster.ray.capacity import Room
from cluster.ray.connection import connect, ray_failures
from cluster.ray.failures import RanksLost
from cluster.ray.gang import Gang
from cluster.ray.items import Items
from cluster.ray.nodes import nodes_of, selector, tell
from cluster.ray.quarantine import NodeFailures
from cluster.ray.waiting import Watch
from configs.base import InfrastructureError, StartUpError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")

SECONDS_BETWEEN_LOOKS = 0.5
MAX_BACKOFF_SECONDS = 30.0


class RayExecutor:
    """Work on a Ray cluster: `local` starts a private one for the life of this process."""

    def __init__(
        self,
        pool: PoolConfig,
        *,
        address: str,
        wandb: WandbConfig | None = None,
        failures: NodeFailures | None = None,
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        self._pool, self._address, self._wandb = pool, address, wandb
        self._failures, self._avoid = failures or NodeFailures(None), avoid
        self.used: Placement | None = None

    def placement(self) -> Placement:
        """What the pool's settings come to on the cluster.

        Raises StartUpError if a cluster that was joined has too little: at once, unless the cluster file says under
        `machines` that it will have more.
        """
        connect(self._address)
        deadline = time.monotonic() + self._pool.start_timeout_seconds
        while True:
            nodes = nodes_of(self._pool)
            try:
                self.used = place(self._pool, nodes, wandb=self._wandb)
                return self.used
            except TooFew as error:
                if self._address == "local":
                    raise
                if not self._will_grow(len(nodes)) or time.monotonic() > deadline:
                    raise StartUpError(f"{error} (its nodes that live: {tell(nodes)})") from None
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """See Executor. At most two items a slot are in flight."""
        placement = self.used or self.placement()
        gpus = 1 if on_device and placement.device == "cuda" else 0
        nodes = nodes_of(self._pool)
        bad = [node for node in nodes if node.is_in(self._failures.avoided() | self._avoid)]
        if len(bad) == len(nodes):
            bad = []
        options = {"num_cpus": placement.cpus_per_task, "num_gpus": gpus, "max_retries": placement.max_restarts}
        remote: Any = ray.remote(fn).options(**options, label_selector=selector(self._pool, bad) or None)
        slots = sum(node.num_cpus // placement.cpus_per_task for node in nodes if node not in bad)
        results = Items(self._pool, placement, label=label)
        waiting: deque[Any] = deque()
        upcoming = iter(items)
        # Items in flight when one fails are left to end by themselves: ray.cancel races with their end and aborts
        # the driver ("Check failed" in task_manager.cc, Ray 2.60).
        with Meter(label, len(items)) as meter:
            while True:
                waiting.extend(remote.remote(item) for item in islice(upcoming, 2 * max(1, slots) - len(waiting)))
                if not waiting:
                    return
                yield results.take(waiting.popleft())
                meter.advance()

    def gang(
        self,
        fn: Callable[[Rank, A], R],
        argument: A,
        *,
        label: str,
        warm: Callable[[], None] | None = None,
        resize: Callable[[], None] | None = None,
    ) -> R:
        """See Executor. Lost ranks are started again at most `max_restarts` times."""
        placement = self.used or self.placement()
        room = Room(self._pool, placement, failures=self._failures, avoid=self._avoid, label=label)
        losses: Counter[str] = Counter()
        attempt = 0
        with ray_failures(label), Gang(placement, room, label=label, warm=warm) as gang:
            while True:
                is_last = losses.total() == placement.max_restarts
                try:
                    return gang.run(fn, argument, attempt=attempt, is_last=is_last, resize=resize)
                except Resized:
                    say(f"{label}: more ranks fit by now; starting again with them")
                    gang.release()
                except RanksLost as lost:
                    host = lost.where.host if lost.where else ""
                    if host:
                        room.failed(host, reason=str(lost))
                    if is_last:
                        gang.check_memory()
                        raise InfrastructureError(_given_up(label, lost, placement.max_restarts)) from None
                    losses[host] += 1
                    say(f"{label}: {lost}; starting all ranks again")
                    _back_off(label, losses[host])
                attempt += 1

    def _will_grow(self, num_nodes: int) -> bool:
        """Whether the cluster file says that there will be more nodes than now, and that those suffice."""
        machines = self._pool.machines
        if machines is None or num_nodes >= machines.num_nodes:
            return False
        try:
            place(self._pool, described(machines, self._pool), wandb=None)
        except TooFew:
            return False
        return True


def _given_up(label: str, lost: RanksLost, max_restarts: int) -> str:
    return f"{label}: {lost}, after {max_restarts} restarts; look for what kills it, then run the same command to go on"


def _back_off(label: str, num_losses: int) -> None:
    """Wait before all start again: not at all after a host's first loss, then 1, 2, 4 s and so on."""
    seconds = min(MAX_BACKOFF_SECONDS, 2.0 ** (num_losses - 2)) if num_losses > 1 else 0.0
    watch, until = Watch(label), time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(SECONDS_BETWEEN_LOOKS, max(0.0, until - time.monotonic())))
        watch.look()
