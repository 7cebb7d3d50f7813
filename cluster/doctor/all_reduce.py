"""How fast two processes add up tensors: one of the two."""

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Literal

from cluster.host.network import interface_of

MEET_SECONDS = 20.0
_SECONDS = 1.0
"""Of measuring bandwidth."""

_ELEMENTS = {"gloo": 2**20, "nccl": 2**24}
"""Of 4 bytes."""

_NUM_SMALL = 50


@dataclass(frozen=True)
class Speed:
    """Of an all-reduce between two ranks."""

    gigabits_per_second: float
    """In each direction, on the wire: with two ranks each sends as many bytes as the tensor has."""

    latency_seconds: float
    """Of one number."""


def measure(rank: int, address: str, port: int, *, here: str, backend: Literal["gloo", "nccl"]) -> Speed:
    """Meet rank 0 at `address:port` and measure. `here` is this node's own address. Takes about 2 s.

    Raises RuntimeError, as torch does, if the other does not come within MEET_SECONDS.
    """
    interface = interface_of(here)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)  # else gloo takes what the host's name stands for
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    import torch.distributed as dist

    limit = timedelta(seconds=MEET_SECONDS)
    dist.init_process_group(backend, init_method=f"tcp://{address}:{port}", rank=rank, world_size=2, timeout=limit)
    try:
        return _measure(backend)
    finally:
        dist.destroy_process_group()


def _measure(backend: str) -> Speed:
    import torch
    import torch.distributed as dist

    device = torch.device("cuda" if backend == "nccl" else "cpu")
    small, large = torch.ones(1, device=device), torch.ones(_ELEMENTS[backend], device=device)

    def seconds(tensor: torch.Tensor) -> float:
        started = time.perf_counter()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)  # the values stay as they are
        if backend == "nccl":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(large)  # connections are made at first use
    latency = median(seconds(small) for _ in range(_NUM_SMALL))
    once = torch.tensor([seconds(large)], device=device)
    dist.all_reduce(once, op=dist.ReduceOp.MAX)  # both must take equally many turns
    turns = max(1, min(50, int(_SECONDS / float(once))))
    fastest = median(seconds(large) for _ in range(turns))
    return Speed(8 * large.numel() * large.element_size() / fastest / 1e9, latency)
