"""The workers that keep a device between items of work, with what they have loaded on it, until the work is done.

Ray keeps an idle worker for the next task. One that has a model on a GPU would keep the GPU's memory, too.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE_SECONDS = 20.0

Worker = tuple[str, int]
"""Ray's id of a node, and a process there."""


def call_and_tell(fn: Callable[[T], R], item: T) -> tuple[R, Worker]:
    """Call `fn`; return its result, and the worker that this is."""
    return fn(item), (ray.get_runtime_context().get_node_id(), os.getpid())


def end_workers(workers: set[Worker]) -> None:
    """End workers that are idle. What cannot be reached any more has none of its own."""
    pending = []
    for node, pid in workers:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        pending.append(_end_worker.options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote(pid))
    for one in pending:
        with suppress(RayError, GetTimeoutError):
            ray.get(one, timeout=_PATIENCE_SECONDS)


def _end(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.name().startswith("ray::IDLE"):  # one that does this, too, ends by itself
            process.terminate()
            with suppress(psutil.TimeoutExpired):
                process.wait(_PATIENCE_SECONDS / 4)
                return
            process.kill()


_end_worker: Any = ray.remote(max_calls=1)(_end)
