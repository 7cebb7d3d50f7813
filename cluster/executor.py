"""The interface by which a stage asks for compute without knowing who provides it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cluster.placement import Placement

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")


class Resized(Exception):
    """Raised by every rank that was asked to make way for another number of ranks, once it has saved its work.

    It is no failure: the gang is started again with as many ranks as fit by then.
    """


@dataclass(frozen=True)
class Rank:
    """One of the processes of a gang."""

    index: int
    world_size: int
    device: str
    """PyTorch's type of the device: `cuda` or `cpu`, or `xpu` or `hpu` (training/accelerator.py)."""

    num_threads: int
    host: str
    """Address of rank 0, where the ranks hold their rendezvous."""

    port: int
    num_restarts: int
    """How often the gang was started before in this call of Executor.gang; 0 at first."""

    member: int = 0
    """Which of the pool's members it is of (Placement.members)."""

    def environment(self) -> dict[str, str]:
        """Return the variables that torch.distributed and DeepSpeed read.

        Each rank sees one GPU, its own, as device 0. LOCAL_SIZE is only the number of devices that DeepSpeed's CPU
        accelerator reports; without it DeepSpeed would count the NUMA nodes with numactl.
        """
        return {
            "RANK": str(self.index),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": "0",
            "LOCAL_SIZE": str(self.world_size),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "DS_ACCELERATOR": self.device,
            "OMP_NUM_THREADS": str(self.num_threads),
        }


class Executor(Protocol):
    """Something that runs functions of ours: a Ray cluster, or this process."""

    used_placement: Placement | None
    """The placement, once it was asked for: None while no machine has been looked at."""

    def placement(self) -> Placement:
        """Lay the pool out on the machines there are. Starts or joins Ray, if it takes Ray."""
        ...

    def map(self, fn: Callable[[T], R], items: Sequence[T], *, label: str, on_device: bool = False) -> Iterator[R]:
        """Apply `fn` to independent items, in any order of execution, yielding results in the order of `items`.

        `fn` and the items are picklable; `fn` may run twice on an item if a worker is lost, so what it writes must
        not depend on how often it ran. An exception of `fn` ends the whole. `on_device`: each item has a GPU of its
        own, where there are any.
        """
        ...

    def release(self) -> None:
        """End the workers that `map` on devices kept, with what they have loaded there."""
        ...

    def warm(self, fn: Callable[[T], R], *, num_items: int) -> None:
        """Have workers import what `fn` needs, for a `map` over so many items that follows; wait for nothing."""
        ...

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
        """Call `fn(rank, argument)` once a rank, all at the same time; return rank 0's result.

        The ranks start and fail together. If one is lost, all are restarted, so `fn` must go on from what it has
        saved. An exception of `fn` is no reason to restart. `warm`, picklable, imports what `fn` will: with it, and
        where the placement has `warm_spares`, spare processes that have called it stand by for the ranks.

        Where the placement is elastic, a restart may have fewer ranks than before, or more: `world_size` says how
        many. `resize`, called in this process at most once a start of the gang, asks the ranks that work to save and
        raise Resized, because more would fit; without it a gang never grows. Ranks that end first have ended well.
        `slow_host` returns the name of a host that keeps the others waiting, if `fn` has found one: where there is room
        for its ranks elsewhere, or the placement is elastic and the others are enough, they are asked to make way in
        the same manner, and the host is left out from then on.

        `output` is a directory that all ranks reach: what each prints goes to a file there (cluster/rank_output.py),
        and the last lines of a rank that is lost are told. A rank that is this process prints where this does.

        Raises StartUpError if the resources of the ranks do not become free in time, InfrastructureError if ranks are
        lost more often than `max_restarts` or Ray itself dies, and OutOfMemory.
        """
        ...
