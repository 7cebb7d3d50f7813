"""The executor that is this process: for tests, a debugger, and machines without Ray."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cluster.device_errors import explained
from cluster.devices import devices_by_ray_name, memory_bytes_by_ray_name
from cluster.executor import Rank
from cluster.host.console import ProgressMeter
from cluster.host.limits import count_gpus, this_machine
from cluster.host.network import free_port
from cluster.machines import Node
from cluster.placement import Placement, describe_found, place
from configs.base import ConfigError
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
        """Lay out one rank with all cores of this process, on a GPU if there is one.

        Of a pool with members it is of the first that this machine suits. Raises as `place` does with the first.
        """
        here = this_machine(min(1, count_gpus()))
        errors: list[ConfigError] = []
        for kind in self._pool.kinds():
            try:
                self.used_placement = self._place_alone(kind, here)
                return self.used_placement
            except ConfigError as error:
                errors.append(error)
        raise errors[0]

    def _place_alone(self, kind: PoolConfig, here: Node) -> Placement:
        if self._pool.members and not _may_be_of(kind, here):
            raise ConfigError(
                f"the pool wants {kind.accelerator}, and this machine has {here.accelerator}; start the run where such "
                "devices are, or add a member for those of this machine"
            )
        alone = kind.model_copy(update={"num_ranks": 1, "min_ranks": None, "cpus_per_rank": None})
        placement = place(alone, [here], wandb=self._wandb)
        found = describe_found(alone.model_copy(update={"machines": None}), [here], placement)
        return replace(placement, num_tasks=1, found=found)

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


def _may_be_of(kind: PoolConfig, here: Node) -> bool:
    """Return whether this machine's GPUs are of a kind, as far as is known: by its name, and its size to a tenth."""
    if kind.accelerator in (None, here.accelerator) or here.accelerator is None:
        return True
    names = {name for device in devices_by_ray_name(kind.accelerator) for name in device.ray_names}
    size, own = memory_bytes_by_ray_name(kind.accelerator), here.accelerator_bytes
    return here.accelerator in names and size is not None and own is not None and abs(own - size) < size / 10
