"""The executor that is this process: for tests, a debugger, and machines without Ray."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cluster.executor import Rank
from cluster.host.console import Meter
from cluster.host.network import free_port
from cluster.machines import Node
from cluster.placement import Placement, place
from configs.cluster import WandbConfig
from configs.pools import PoolConfig

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")


class InlineExecutor:
    """One item after the other; a gang of one rank."""

    def __init__(self, pool: PoolConfig, *, wandb: WandbConfig | None = None) -> None:
        self._pool, self._wandb = pool, wandb
        self.used: Placement | None = None

    def placement(self) -> Placement:
        """One rank with all cores of this process, on a GPU if there is one."""
        alone = self._pool.model_copy(update={"num_ranks": 1, "min_ranks": None, "cpus_per_rank": None})
        self.used = place(alone, [this_machine(min(1, count_gpus()))], wandb=self._wandb)
        return self.used

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """See Executor."""
        self.used = self.used or self.placement()
        with Meter(label, len(items)) as meter:
            for item in items:
                yield fn(item)
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
        """See Executor; there is no worker to lose, so nothing is started again and nothing stands by."""
        placement = self.used or self.placement()
        rank = Rank(0, 1, placement.device, placement.cpus_per_rank, "127.0.0.1", free_port(), attempt=0)
        before = dict(os.environ)
        os.environ.update(rank.environment())
        try:
            return fn(rank, argument)
        finally:
            os.environ.clear()
            os.environ.update(before)


def this_machine(num_gpus: int) -> Node:
    """The machine that this process runs on, as far as it may use it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(socket.gethostname(), len(os.sched_getaffinity(0)), num_gpus, memory)


def count_gpus() -> int:
    """GPUs that the NVIDIA driver lists and CUDA_VISIBLE_DEVICES leaves, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
