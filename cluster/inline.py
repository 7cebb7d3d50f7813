"""The executor that is this process: for tests, a debugger, and machines without Ray."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cluster.device_errors import explained
from cluster.executor import Rank
from cluster.host.console import ProgressMeter
from cluster.host.limits import count_gpus, this_machine
from cluster.host.network import free_port
from cluster.placement import Placement, describe_found, place
from configs.cluster import WandbConfig
from configs.pools import PoolConfig

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")


class InlineExecutor:
    """Implements Executor without workers: one item after the other, and gangs of one rank."""

    def __init__(self, pool: PoolConfig, *, wandb: WandbConfig | None = None) -> None:
        self._pool, self._wandb = pool, wandb
        self.used_placement: Placement | None = None

    def placement(self) -> Placement:
        """Lay out one rank with all cores of this process, on a GPU if there is one."""
        alone = self._pool.model_copy(update={"num_ranks": 1, "min_ranks": None, "cpus_per_rank": None})
        here = this_machine(min(1, count_gpus()))
        placement = place(alone, [here], wandb=self._wandb)
        found = describe_found(alone.model_copy(update={"machines": None}), [here], placement)
        self.used_placement = replace(placement, num_tasks=1, found=found)
        return self.used_placement

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """Apply `fn` to the items in their order, each when its result is asked for."""
        self.used_placement = self.used_placement or self.placement()
        with ProgressMeter(label, len(items)) as meter:
            for item in items:
                with explained(label):
                    result = fn(item)
                yield result
                meter.advance()

    def release(self) -> None:
        """Do nothing: what is loaded is in this process."""

    def warm(self, fn: Callable[[T], R], *, num_items: int) -> None:
        """Do nothing: there are no workers."""

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
        """Call `fn` as the only rank, in its environment. Nothing is restarted, warmed up or resized."""
        placement = self.used_placement or self.placement()
        rank = Rank(0, 1, placement.device, placement.cpus_per_rank, "127.0.0.1", free_port(), num_restarts=0)
        before = dict(os.environ)
        os.environ.update(rank.environment())
        try:
            with explained(label):
                return fn(rank, argument)
        finally:
            os.environ.clear()
            os.environ.update(before)
