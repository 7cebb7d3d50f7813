"""Shares a step among unlike devices where every pass has collectives: ZeRO 3, and 2 as it is by itself.

All ranks have the same number of passes, and a pass takes as long as the slowest of them. In a pass of t seconds the
most that fits is F(t), the sum over devices of the largest micro-batch that takes no longer: a step function whose
steps are times of passes. So a step is a choice of such times, each as often as wanted, whose F reach the step's
sequences at the least sum of times: an unbounded knapsack that has to be covered. Up to EXACT_SEQUENCES it is solved
exactly, by dynamic programming over the sequences. Above, the sequences stay exact and the costs are counted in cells:
of the passes that take long, the most that fits into each number of cells is found; what they leave goes to the short
passes, in bulk to that with the least cost a sequence, and the last EXACT_SEQUENCES of it exactly. That is never more
than 0.3% above the bound that is told with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, inf

import numpy as np
import numpy.typing as npt

from training.allocation.bottleneck import AS_FAST
from training.allocation.devices import Allocation, DeviceType, Share, sum_of_rates

EXACT_SEQUENCES = 1 << 18
COST_CELLS = 1 << 20
"""Into how many the costs of a step are divided, above EXACT_SEQUENCES."""

SHORT_CELLS = 1 << 10
"""A pass of at most so many cells is short. Costs are off by 1 / SHORT_CELLS + 2 * SHORT_CELLS / COST_CELLS at most."""

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
    sizes, wanted = levels.capacities // shared, -(-num_sequences // shared)
    if wanted <= EXACT_SEQUENCES:
        chosen = _cover(levels.costs, sizes, wanted)
        seconds = bound = float(levels.costs[chosen].sum())
    else:
        chosen, bound = _cover_closely(levels.costs, sizes, wanted)
        seconds = float(levels.costs[chosen].sum())
        bound = min(bound, seconds)  # they may differ by rounding where both are the least
    passes = levels.limits[chosen]
    surplus = int(levels.capacities[chosen].sum()) - num_sequences
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


def _cover(costs: Floats, capacities: Ints, wanted: int) -> list[int]:
    """Return which levels reach `wanted` at the least costs, each as often as it is used, the longest first."""
    if wanted <= 0:
        return []
    prices = costs + AS_FAST * float(costs.max())  # of ways that cost as much, that with fewer passes is taken
    least, last = np.zeros(wanted + 1), np.zeros(wanted + 1, dtype=np.int64)
    for number in range(1, wanted + 1):
        sums = least[np.maximum(number - capacities, 0)] + prices
        last[number] = place = int(sums.argmin())
        least[number] = sums[place]
    chosen, left = list[int](), wanted
    while left > 0:
        chosen.append(int(last[left]))
        left -= int(capacities[last[left]])
    return sorted(chosen, reverse=True)


def _cover_closely(costs: Floats, capacities: Ints, wanted: int) -> tuple[list[int], float]:
    """Return levels that reach `wanted`, as _cover does, and a bound that no way to reach it is below.

    The bound: let short passes be divisible, so all of them are as good as the best, and each long pass cost up to
    1 + `off` times as much, as rounding up to cells does; the least of that is at most 1 + `off` times the true least.
    """
    sizes = np.minimum(capacities, wanted)
    slopes = costs / sizes
    upper = float((-(-wanted // sizes) * costs).min())  # with passes that are all alike: at most twice the least
    cell = upper / COST_CELLS
    is_short = costs <= SHORT_CELLS * cell
    slope = float(slopes[is_short].min(initial=inf))
    long = np.flatnonzero(~is_short & (costs <= upper) & (slopes < slope))
    cells = np.ceil(costs[long] / cell).astype(np.int64)
    off = float((cells * cell / costs[long]).max(initial=1.0)) - 1
    most, last = _fill(cells, sizes[long], COST_CELLS + COST_CELLS // SHORT_CELLS + 2)
    sums, missing = np.arange(len(most)) * cell, np.maximum(wanted - most, 0)
    sums[missing > 0] += missing[missing > 0] * slope
    spent = int(sums.argmin())
    bound = max(float(sums[spent]) / (1 + off), wanted * float(slopes.min()))
    chosen, left = list[int](), wanted - int(most[spent])
    while last[spent] >= 0:
        chosen.append(int(long[last[spent]]))
        spent -= int(cells[last[spent]])
    if left > EXACT_SEQUENCES:
        best = int(np.flatnonzero(is_short & (slopes <= slope * (1 + AS_FAST)))[-1])
        bulk = -((EXACT_SEQUENCES - left) // int(sizes[best]))
        chosen += [best] * bulk
        left -= bulk * int(sizes[best])
    return sorted(chosen + _cover(costs, capacities, left), reverse=True), bound


def _fill(cells: Ints, capacities: Ints, length: int) -> tuple[Ints, Ints]:
    """Return the most that levels do in each number of cells below `length`, and the level used last, or -1 for none.

    A block as long as the smallest level depends on earlier blocks only, so that it is filled at once.
    """
    most, last = np.zeros(length, dtype=np.int64), np.full(length, -1, dtype=np.int64)
    block = int(cells.min(initial=length))
    for start in range(block, length, block):
        stop = min(start + block, length)
        for place in range(len(cells) - 1, -1, -1):
            size = int(cells[place])
            first = max(start, size)
            if first < stop:
                sums = most[first - size : stop - size] + capacities[place]
                better = first + np.flatnonzero(sums > most[first:stop])
                most[better] = sums[better - first]
                last[better] = place
    return most, last


def _shares(devices: Sequence[DeviceType], passes: Floats, surplus: int) -> list[Share]:
    """Return what each rank does in each pass, after `surplus` is taken from it.

    It is taken from the last passes, and there from the types that are slowest, so that no pass takes longer.
    """
    groups = [[(one.number, np.searchsorted(one.pass_seconds, passes, "right").tolist())] for one in devices]
    slowest = sorted(range(len(devices)), key=lambda place: devices[place].rate)
    number = len(passes)
    while surplus:  # less than the last pass or few, so that lists are copied a few times only
        number -= 1
        for place in slowest:
            groups[place], surplus = _reduced(groups[place], number, surplus)
    shares = []
    for one, own in zip(devices, groups, strict=True):
        for count, of in own:
            seconds = sum(one.pass_seconds[size - 1] for size in of if size)
            shares.append(Share(one.name, count, tuple(of), seconds))
    return shares


def _reduced(groups: list[tuple[int, list[int]]], number: int, surplus: int) -> tuple[list[tuple[int, list[int]]], int]:
    """Return groups of ranks that do less in the pass of a number, by `surplus` in all if there is so much."""
    found = []
    for count, own in groups:
        if not surplus or not own[number]:
            found.append((count, own))
            continue
        whole = min(count, surplus // own[number])  # these do nothing in the pass
        surplus -= whole * own[number]
        part = min(surplus, own[number]) if count > whole else 0
        surplus -= part
        for ranks, size in ((count - whole - (part > 0), own[number]), (int(part > 0), own[number] - part), (whole, 0)):
            if ranks:
                found.append((ranks, [*own[:number], size, *own[number + 1 :]]))
    return found, surplus
