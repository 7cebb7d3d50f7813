"""The workers that keep a device between items of work, with what they have loaded on it, until the work is done.

Ray keeps an idle worker for the next task. One that has a model on a GPU would keep the GPU's memory, too.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")
R = TypeVar("R")

LEASE_SECONDS = 1.5
"""How long Ray keeps a worker for the function that it ran last, at most: before, its end would be a failure to Ray."""

_PATIENCE_SECONDS = 20.0

Worker = tuple[str, int]
"""Ray's id of a node, and a process there."""


def call_and_tell(fn: Callable[[T], R], item: T) -> tuple[R, Worker]:
    """Call `fn`; return its result, and the worker that this is."""
    return fn(item), (ray.get_runtime_context().get_node_id(), os.getpid())


def end_workers(workers: set[Worker]) -> None:
    """End workers that are idle. What cannot be reached any more has none of its own."""
    by_node: dict[str, list[int]] = {}
    for node, pid in workers:
        by_node.setdefault(node, []).append(pid)
    if workers:
        time.sleep(LEASE_SECONDS)
    pending = []
    for node, pids in by_node.items():
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        pending.append(_end_idle.options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote(pids))
    for one in pending:
        with suppress(RayError, GetTimeoutError):
            ray.get(one, timeout=_PATIENCE_SECONDS)


def _end(pids: list[int]) -> None:
    """End the workers of this node that do nothing. One that does this ends by itself (max_calls)."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.name().startswith("ray::IDLE"):
                process.kill()


_end_idle: Any = ray.remote(max_calls=1)(_end)
