"""The network between nodes: which pairs are measured, how fast they all-reduce, and what their speeds mean."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from statistics import median
from typing import Literal

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.host.network import interface_of

ALL_PAIRS_NODES = 4
"""So many nodes or fewer: every pair. More: a ring of neighbours, and each with the one half-way round."""

SLOW_GIGABITS = 1.0
"""Gbit/s. A model of a billion parameters has 4 GB of gradients: half a minute a step."""

SLOW_SHARE = 0.5
"""A pair is slow below this share of the median pair, or of what the cluster file says of the network."""

SLOW_LATENCY_SECONDS = 0.005

MEET_SECONDS = 20.0
"""How long one process of a pair waits for the other."""

_MEASURE_SECONDS = 1.0
"""How long bandwidth is measured."""

_NUM_ELEMENTS = {"gloo": 2**20, "nccl": 2**24}
"""Elements, of 4 bytes each, of the tensor with which bandwidth is measured."""

_NUM_SMALL = 50
"""How often latency is measured."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Speed:
    """Speed of an all-reduce between two ranks."""

    gigabits_per_second: float
    """In each direction, on the wire: with two ranks each sends as many bytes as the tensor has."""

    latency_seconds: float
    """Time of an all-reduce of one number."""


def choose_pairs(num_nodes: int) -> list[Pair]:
    """Return pairs of indices, about 1.5 for each node of a large cluster."""
    if num_nodes <= ALL_PAIRS_NODES:
        return list(combinations(range(num_nodes), 2))
    ring = [(i, (i + 1) % num_nodes) for i in range(num_nodes)]
    across = [(i, i + num_nodes // 2) for i in range(num_nodes // 2)]
    return [(min(pair), max(pair)) for pair in ring + across]


def split_into_rounds(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Split pairs into rounds in which no node has two: those of a round are measured at the same time."""
    rounds: list[list[Pair]] = []
    for pair in pairs:
        free = (chosen for chosen in rounds if not any(set(pair) & set(other) for other in chosen))
        chosen = next(free, None)
        if chosen is None:
            rounds.append(chosen := [])
        chosen.append(pair)
    return rounds


def measure_speed(rank: int, address: str, port: int, *, own_address: str, backend: Literal["gloo", "nccl"]) -> Speed:
    """Meet rank 0 of two at `address:port` and measure. Takes about 2 s.

    `own_address` is this node's: the network interface that holds it is used. Raises RuntimeError, as torch does, if
    the other rank does not come within MEET_SECONDS.
    """
    interface = interface_of(own_address)
    if interface:
        # Otherwise gloo takes the interface of the address that the host's name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    import torch.distributed as dist

    limit = timedelta(seconds=MEET_SECONDS)
    dist.init_process_group(backend, init_method=f"tcp://{address}:{port}", rank=rank, world_size=2, timeout=limit)
    try:
        return _measure_all_reduce(backend)
    finally:
        dist.destroy_process_group()


def _measure_all_reduce(backend: str) -> Speed:
    import torch
    import torch.distributed as dist

    device = torch.device("cuda" if backend == "nccl" else "cpu")
    small, large = torch.ones(1, device=device), torch.ones(_NUM_ELEMENTS[backend], device=device)

    def all_reduce_seconds(tensor: torch.Tensor) -> float:
        started = time.perf_counter()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)  # the values stay as they are
        if backend == "nccl":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    all_reduce_seconds(large)  # connections are made at first use
    latency = median(all_reduce_seconds(small) for _ in range(_NUM_SMALL))
    once = torch.tensor([all_reduce_seconds(large)], device=device)
    dist.all_reduce(once, op=dist.ReduceOp.MAX)  # both must measure equally often
    num_measured = max(1, min(50, int(_MEASURE_SECONDS / float(once))))
    typical = median(all_reduce_seconds(large) for _ in range(num_measured))
    return Speed(8 * large.numel() * large.element_size() / typical / 1e9, latency)


def pair_findings(
    hosts: Sequence[str], speeds: Mapping[Pair, Speed | str | None], *, expected_gigabits: float | None
) -> list[Finding]:
    """Return one finding for each pair that is slow or has failed, and one for the rest.

    A speed that is a text says why there is none; None stands for a pair of nodes whose GPUs are in use.
    """
    measured = {pair: speed for pair, speed in speeds.items() if isinstance(speed, Speed)}
    failed = [_failed_pair(hosts, pair, speed) for pair, speed in speeds.items() if isinstance(speed, str)]
    usual = median(speed.gigabits_per_second for speed in measured.values()) if measured else 0.0
    least = max(SLOW_GIGABITS, SLOW_SHARE * (expected_gigabits or usual))
    slow = [
        _slow_pair(hosts, pair, speed, least=least)
        for pair, speed in measured.items()
        if speed.gigabits_per_second < least or speed.latency_seconds > SLOW_LATENCY_SECONDS
    ]
    num_busy = sum(speed is None for speed in speeds.values())
    if num_busy:
        seen = f"{num_busy} pairs of nodes were not measured, as GPUs there are in use"
        failed.append(warn("all-reduce", seen, fix="run the doctor again when they are free"))
    if len(slow) < len(measured):
        chosen = "" if len(hosts) <= ALL_PAIRS_NODES else ", a ring of neighbours and a sample across it"
        latency = median(speed.latency_seconds for speed in measured.values())
        seen = f"{usual:.2f} Gbit/s and {latency * 1e3:.2f} ms by the median of {len(measured)} pairs{chosen}"
        return [ok("all-reduce", seen), *slow, *failed]
    return [*slow, *failed]


def _failed_pair(hosts: Sequence[str], pair: Pair, why: str) -> Finding:
    return fail(
        f"all-reduce {hosts[pair[0]]} - {hosts[pair[1]]}",
        why,
        fix="open all ports between the nodes; or name the interface that joins them: environment: "
        "{GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0} in the cluster file",
    )


def _slow_pair(hosts: Sequence[str], pair: Pair, speed: Speed, *, least: float) -> Finding:
    return warn(
        f"all-reduce {hosts[pair[0]]} - {hosts[pair[1]]}",
        f"{speed.gigabits_per_second:.2f} Gbit/s and {speed.latency_seconds * 1e3:.2f} ms, where {least:.1f} Gbit/s "
        f"and {SLOW_LATENCY_SECONDS * 1e3:.0f} ms are wanted",
        fix="check the link of these nodes (ethtool, iperf3), and that *_SOCKET_IFNAME names the fast interface",
    )
