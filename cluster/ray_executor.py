"""The ray door: parallel items are Ray tasks; a gang is one Ray actor a rank on a placement group.

Ray Train was measured and left out: `benchmarks/gang_startup.py` compares the two in one run.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from cluster.executor import Rank
from cluster.placement import Placement, place
from cluster.progress import Meter, say
from cluster.ray_connection import connect, first_line, ray_failures
from cluster.ray_gang import Gang
from cluster.ray_nodes import nodes_of
from cluster.ray_verdict import RanksLost
from cluster.ray_wait import Watch
from configs.base import UserError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")


class RayExecutor:
    """Work on a Ray cluster: `local` starts a private one for the life of this process."""

    def __init__(self, pool: PoolConfig, *, address: str, wandb: WandbConfig | None = None) -> None:
        self._pool, self._address, self._wandb = pool, address, wandb
        self.used: Placement | None = None

    def placement(self) -> Placement:
        """What the pool's settings come to on the cluster."""
        connect(self._address)
        self.used = place(self._pool, nodes_of(self._pool), wandb=self._wandb)
        return self.used

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """See Executor. At most two items a slot are in flight."""
        placement = self.placement()
        gpus = 1 if on_device and placement.device == "cuda" else 0
        options = {"num_cpus": placement.cpus_per_task, "num_gpus": gpus, "max_retries": placement.max_restarts}
        remote: Any = ray.remote(fn).options(**options)
        in_flight = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)) // placement.cpus_per_task)
        waiting: deque[Any] = deque()
        upcoming = iter(items)
        # Items in flight when one fails are left to end by themselves: ray.cancel races with their end and aborts
        # the driver ("Check failed" in task_manager.cc, Ray 2.60).
        with Meter(label, len(items)) as meter:
            while True:
                waiting.extend(remote.remote(item) for item in islice(upcoming, in_flight - len(waiting)))
                if not waiting:
                    return
                yield _result(waiting.popleft(), label, placement.max_restarts)
                meter.advance()

    def gang(self, fn: Callable[[Rank, A], R], argument: A, *, label: str, warm: Callable[[], None] | None = None) -> R:
        """See Executor. Lost ranks are started again at most `max_restarts` times."""
        placement = self.placement()
        with ray_failures(label), Gang(placement, label=label, warm=warm) as gang:
            for attempt in range(placement.max_restarts + 1):
                try:
                    return gang.run(fn, argument, attempt=attempt)
                except RanksLost as lost:
                    say(f"{label}: {lost}; starting all ranks again")
                    cause = lost
        restarts = f"after {placement.max_restarts} restarts"
        raise UserError(f"{label}: {cause}, {restarts}; look for what kills it, such as too little memory")


def _result(reference: Any, label: str, max_restarts: int) -> Any:
    try:
        with ray_failures(label):
            watch = Watch(label)
            while not watch.turn([reference])[0]:
                pass
            return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, (UserError, OSError)) else error) from None
    except (WorkerCrashedError, OutOfMemoryError, RayActorError) as error:
        raise UserError(
            f"{label}: the worker of an item died {max_restarts + 1} times ({first_line(error)}); "
            "if it ran out of memory raise cpus_per_task in the cluster file, so that fewer run at once"
        ) from error
