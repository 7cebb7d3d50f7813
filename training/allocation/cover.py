"""Shares a step among unlike devices where every pass has collectives: ZeRO 3, and 2 as it is by itself.

All ranks have the same number of passes, and a pass takes as long as the slowest of them. In a pass of t seconds the
most that fits is F(t), the sum over devices of the largest micro-batch that takes no longer: a step function whose
steps are times of passes. So a step is a choice of such times, each as often as wanted, whose F reach the step's
sequences at the least sum of times: an unbounded knapsack that has to be covered. Up to EXACT_SEQUENCES it is solved
exactly, by dynamic programming over the sequences; above, they are counted in units, rounded so that the allocation is
one, and once more so that the least time is not above the bound that is told with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, gcd

import numpy as np
import numpy.typing as npt

from training.allocation.bottleneck import AS_FAST
from training.allocation.devices import Allocation, DeviceType, Share, sum_of_rates

EXACT_SEQUENCES = 1 << 18

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Levels:
    """The times that a pass may have: how long it takes then, and how many sequences it does."""

    limits: Floats
    """The time of the slowest micro-batch."""

    costs: Floats
    """The same with the collectives."""

    capacities: Ints


def allocate_cover(
    devices: Sequence[DeviceType],
    num_sequences: int,
    *,
    pass_seconds: float = 0.0,
    overlaps: bool = True,
    step_seconds: float = 0.0,
) -> Allocation:
    """Return the allocation that takes least time, or above EXACT_SEQUENCES one that is as close as its bound says.

    `pass_seconds` is what the collectives of a pass take: while it computes, if they overlap with that, else besides;
    `step_seconds` is what a step takes besides its passes. Raises ValueError if there is nothing to share.
    """
    if num_sequences < 1 or not devices:
        raise ValueError(f"{num_sequences} sequences on {len(devices)} types of devices; give one or more of each")
    levels = _find_levels(devices, pass_seconds, overlaps=overlaps)
    shared = gcd(*(int(one) for one in levels.capacities))
    unit = shared * max(1, ceil(num_sequences / shared / EXACT_SEQUENCES))
    chosen, seconds = _cover(levels.costs, levels.capacities // unit, ceil(num_sequences / unit))
    bound = seconds
    if unit > shared:
        _, relaxed = _cover(levels.costs, -(-levels.capacities // unit), num_sequences // unit)
        bound = max(relaxed, num_sequences * float((levels.costs / levels.capacities).min()))
    passes = [float(levels.limits[place]) for place in chosen]
    surplus = sum(int(levels.capacities[place]) for place in chosen) - num_sequences
    total = seconds + step_seconds
    eta = num_sequences / (total * sum_of_rates(devices))
    return Allocation(tuple(_shares(devices, passes, surplus)), total, bound + step_seconds, eta)


def _find_levels(devices: Sequence[DeviceType], pass_seconds: float, *, overlaps: bool) -> _Levels:
    """Return the times of a pass that do more than all shorter ones."""
    limits = np.unique(np.concatenate([one.pass_seconds for one in devices]))
    counts = [one.number * np.searchsorted(one.pass_seconds, limits, "right") for one in devices]
    capacities = np.sum(counts, axis=0).astype(np.int64)
    costs = np.maximum(limits, pass_seconds) if overlaps else limits + pass_seconds
    keep = np.ones(len(limits), dtype=bool)
    least = np.inf
    for place in range(len(limits) - 1, -1, -1):  # from the longest: one that does less and takes no less is of no use
        keep[place] = costs[place] < least
        least = min(least, costs[place])
    return _Levels(limits[keep], costs[keep], capacities[keep])


def _cover(costs: Floats, capacities: Ints, wanted: int) -> tuple[list[int], float]:
    """Return which levels are chosen, each as often as it is used, and the least costs that reach `wanted`."""
    useful = np.flatnonzero(capacities > 0)
    if wanted <= 0:
        return [], 0.0
    trifle = AS_FAST * float(costs.max())  # of ways that cost as much, that with fewer passes is taken
    sizes, prices = capacities[useful], costs[useful] + trifle
    least, last = np.zeros(wanted + 1), np.zeros(wanted + 1, dtype=np.int64)
    for number in range(1, wanted + 1):
        sums = least[np.maximum(number - sizes, 0)] + prices
        last[number] = place = int(sums.argmin())
        least[number] = sums[place]
    chosen, left = list[int](), wanted
    while left > 0:
        chosen.append(int(useful[last[left]]))
        left -= int(sizes[last[left]])
    return sorted(chosen, reverse=True), float(least[wanted]) - len(chosen) * trifle


def _shares(devices: Sequence[DeviceType], passes: Sequence[float], surplus: int) -> list[Share]:
    """Return what each rank does in each pass, after `surplus` is taken from it.

    It is taken from the last passes, and there from the types that are slowest, so that no pass takes longer.
    """
    sizes = [[int(np.searchsorted(one.pass_seconds, limit, "right")) for limit in passes] for one in devices]
    groups = [[(one.number, own)] for one, own in zip(devices, sizes, strict=True)]
    slowest = sorted(range(len(devices)), key=lambda place: devices[place].rate)
    for number in range(len(passes) - 1, -1, -1):
        for place in slowest:
            groups[place], surplus = _reduced(groups[place], number, surplus)
    shares = []
    for one, own in zip(devices, groups, strict=True):
        for count, of in own:
            seconds = sum(one.pass_seconds[size - 1] for size in of if size)
            shares.append(Share(one.name, count, tuple(of), seconds))
    return shares


def _reduced(
    groups: Sequence[tuple[int, list[int]]], number: int, surplus: int
) -> tuple[list[tuple[int, list[int]]], int]:
    """Return groups of ranks that do less in the pass of a number, by `surplus` in all if there is so much."""
    found = []
    for count, own in groups:
        whole = min(count, surplus // own[number]) if own[number] else 0  # these do nothing in the pass
        surplus -= whole * own[number]
        part = min(surplus, own[number]) if count > whole else 0
        surplus -= part
        for ranks, size in ((count - whole - (part > 0), own[number]), (int(part > 0), own[number] - part), (whole, 0)):
            if ranks:
                found.append((ranks, [*own[:number], size, *own[number + 1 :]]))
    return found, surplus
