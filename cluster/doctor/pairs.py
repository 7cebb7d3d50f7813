"""Which pairs of nodes are measured, and what their speeds mean. Pure."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

from cluster.doctor.all_reduce import Speed
from cluster.doctor.report import Finding, fail, ok, warn

ALL_PAIRS_NODES = 4
"""So many nodes or fewer: every pair. More: a ring of neighbours, and each with the one half-way round."""

SLOW_GIGABITS = 1.0
"""A model of a billion parameters has 4 GB of gradients: half a minute a step."""

SLOW_SHARE = 0.5
"""Of the median pair, or of what the cluster file says of the network."""

SLOW_LATENCY_SECONDS = 0.005

Pair = tuple[int, int]


def pairs_of(num_nodes: int) -> list[Pair]:
    """Pairs of indices, about 1.5 for each node of a large cluster."""
    if num_nodes <= ALL_PAIRS_NODES:
        return list(combinations(range(num_nodes), 2))
    ring = [(i, (i + 1) % num_nodes) for i in range(num_nodes)]
    across = [(i, i + num_nodes // 2) for i in range(num_nodes // 2)]
    return [(min(pair), max(pair)) for pair in ring + across]


def rounds_of(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in turns in which no node has two: those of a turn are measured at the same time."""
    rounds: list[list[Pair]] = []
    for pair in pairs:
        free = (turn for turn in rounds if not any(set(pair) & set(other) for other in turn))
        turn = next(free, None)
        if turn is None:
            rounds.append(turn := [])
        turn.append(pair)
    return rounds


def pair_findings(
    hosts: Sequence[str], speeds: Mapping[Pair, Speed | str | None], *, expected_gigabits: float | None
) -> list[Finding]:
    """What was measured: one finding for each pair that is slow or has failed, and one for the rest.

    A speed that is a text says why there is none; None is that of nodes whose GPUs are in use.
    """
    measured = {pair: speed for pair, speed in speeds.items() if isinstance(speed, Speed)}
    failed = [_failed(hosts, pair, speed) for pair, speed in speeds.items() if isinstance(speed, str)]
    usual = median(speed.gigabits_per_second for speed in measured.values()) if measured else 0.0
    least = max(SLOW_GIGABITS, SLOW_SHARE * (expected_gigabits or usual))
    slow = [
        _slow(hosts, pair, speed, least=least)
        for pair, speed in measured.items()
        if speed.gigabits_per_second < least or speed.latency_seconds > SLOW_LATENCY_SECONDS
    ]
    busy = sum(speed is None for speed in speeds.values())
    if busy:
        seen = f"{busy} pairs of nodes were not measured, as GPUs there are in use"
        failed.append(warn("all-reduce", seen, fix="run the doctor again when they are free"))
    if len(slow) < len(measured):
        chosen = "" if len(hosts) <= ALL_PAIRS_NODES else ", a ring of neighbours and a sample across it"
        latency = median(speed.latency_seconds for speed in measured.values())
        seen = f"{usual:.2f} Gbit/s and {latency * 1e3:.2f} ms by the median of {len(measured)} pairs{chosen}"
        return [ok("all-reduce", seen), *slow, *failed]
    return [*slow, *failed]


def _failed(hosts: Sequence[str], pair: Pair, why: str) -> Finding:
    return fail(
        f"all-reduce {hosts[pair[0]]} - {hosts[pair[1]]}",
        why,
        fix="open all ports between the nodes; or name the interface that joins them: environment: "
        "{GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0} in the cluster file",
    )


def _slow(hosts: Sequence[str], pair: Pair, speed: Speed, *, least: float) -> Finding:
    return warn(
        f"all-reduce {hosts[pair[0]]} - {hosts[pair[1]]}",
        f"{speed.gigabits_per_second:.2f} Gbit/s and {speed.latency_seconds * 1e3:.2f} ms, where {least:.1f} Gbit/s "
        f"and {SLOW_LATENCY_SECONDS * 1e3:.0f} ms are wanted",
        fix="check the link of these nodes (ethtool, iperf3), and that *_SOCKET_IFNAME names the fast interface",
    )
