"""The results of independent items on Ray, and what their failures mean."""

import time
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from cluster.placement import Placement
from cluster.ray.connection import SECONDS_BETWEEN_CHECKS, first_line, ray_failures
from cluster.ray.nodes import live_nodes, nodes_of, tell
from cluster.ray.waiting import Watch
from configs.base import InfrastructureError, OutOfMemory, StartUpError, UserError
from configs.pools import PoolConfig


class Items:
    """Waits for items of one step."""

    def __init__(self, pool: PoolConfig, placement: Placement, *, label: str) -> None:
        self._pool, self._placement, self._label = pool, placement, label

    def take(self, reference: Any) -> Any:
        """An item's result. Raises what its function raised; OutOfMemory or InfrastructureError if its worker dies too
        often, StartUpError if the pool has no node for too long."""
        try:
            with ray_failures(self._label):
                self._wait(reference)
                return ray.get(reference)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, (UserError, OSError)) else error) from None
        except OutOfMemoryError as error:
            raise OutOfMemory(
                f"{self._label}: an item ran out of memory ({first_line(error)}); raise cpus_per_task in the cluster "
                "file, so that fewer run at once"
            ) from error
        except (WorkerCrashedError, RayActorError) as error:
            raise InfrastructureError(
                f"{self._label}: the worker of an item died {self._placement.max_restarts + 1} times "
                f"({first_line(error)}); if it ran out of memory raise cpus_per_task in the cluster file, so that "
                "fewer run at once"
            ) from error

    def _wait(self, reference: Any) -> None:
        watch = Watch(self._label)
        looked = seen = time.monotonic()
        while not watch.turn([reference])[0]:
            now = time.monotonic()
            if now - looked < SECONDS_BETWEEN_CHECKS:
                continue
            looked = now
            seen = now if nodes_of(self._pool) else seen
            if now - seen > self._placement.start_timeout_seconds:
                raise StartUpError(
                    f"{self._label}: no node of the pool has lived for {self._placement.start_timeout_seconds:g} s; "
                    f"the cluster's nodes are {tell(live_nodes())}; start others, or mend the pool's labels"
                )
