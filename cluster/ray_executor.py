"""The ray door: parallel items are Ray tasks; a gang is one Ray actor a rank on a placement group.

Ray Train was measured and left out: `benchmarks/gang_startup.py` compares the two in one run.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from cluster.executor import Rank
from cluster.network import answers
from cluster.placement import Placement, place
from cluster.progress import Meter
from cluster.ray_gang import RanksLost, run_gang
from configs.base import ConfigError, UserError
from configs.cluster import PoolConfig, WandbConfig

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a private Ray. Stages pass files, not objects, so little is enough, and /dev/shm is small in containers."""


class RayExecutor:
    """Work on a Ray cluster: `local` starts a private one for the life of this process."""

    def __init__(self, pool: PoolConfig, *, address: str, wandb: WandbConfig | None = None) -> None:
        self._pool, self._address, self._wandb = pool, address, wandb

    def placement(self) -> Placement:
        """What the pool's settings come to on the cluster."""
        _connect(self._address)
        there = ray.cluster_resources()
        num_cpus, num_gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
        return place(self._pool, num_cpus=num_cpus, num_gpus=num_gpus, wandb=self._wandb)

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """See Executor. At most two items a slot are in flight."""
        placement = self.placement()
        gpus = 1 if on_device and placement.device == "cuda" else 0
        options = {"num_cpus": placement.cpus_per_task, "num_gpus": gpus, "max_retries": placement.max_restarts}
        remote: Any = ray.remote(fn).options(**options)
        in_flight = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)) // placement.cpus_per_task)
        waiting: deque[Any] = deque()
        upcoming = iter(items)
        try:
            with Meter(label, len(items)) as meter:
                while True:
                    waiting.extend(remote.remote(item) for item in islice(upcoming, in_flight - len(waiting)))
                    if not waiting:
                        return
                    yield _result(waiting[0], label, placement.max_restarts)
                    waiting.popleft()
                    meter.advance()
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def gang(self, fn: Callable[[Rank, A], R], argument: A, *, label: str) -> R:
        """See Executor. Lost ranks are started again at most `max_restarts` times."""
        placement = self.placement()
        for attempt in range(placement.max_restarts + 1):
            try:
                result: R = run_gang(fn, argument, placement, attempt=attempt, label=label)
                return result
            except RanksLost as lost:
                print(f"  {label}: {lost}; starting all ranks again", file=sys.stderr, flush=True)
                cause = lost
        raise UserError(f"{label}: {cause}, after {placement.max_restarts} restarts; look for what kills it, such as memory")


def _connect(address: str) -> None:
    """Start a private Ray, or join the one at `address`; once in a process."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if address == "local":
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        return
    if not answers(address):
        raise ConfigError(
            f"no Ray answers at {address!r}; check `ray_address` (host:port of the head node, as `ray start --head` "
            "prints it) and that the head node is up"
        )
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(f"cannot join the Ray at {address!r}: {_first_line(error)}") from error


def _result(reference: Any, label: str, max_restarts: int) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, (UserError, OSError)) else error) from None
    except (WorkerCrashedError, OutOfMemoryError, RayActorError) as error:
        raise UserError(
            f"{label}: the worker of an item died {max_restarts + 1} times ({_first_line(error)}); "
            "if it ran out of memory raise cpus_per_task in the cluster file, so that fewer run at once"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
