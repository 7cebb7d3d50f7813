"""Shares a step among unlike devices where gradients are reduced once a step: ZeRO 0 and 1, and 2 with one reduction.

Ranks may then have unlike numbers of passes, and the step takes as long as the slowest of them. The least time is found
exactly: T_k(g), the least time in which a device of type k does g sequences, is an unbounded knapsack over the sizes of
micro-batches; a time t suffices if the sum over devices of the largest g with T_k(g) <= t reaches the step's sequences;
and the least t that suffices is one of the values of T_k. It holds for any times of passes that never fall.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil

import numpy as np
import numpy.typing as npt

from training.allocation.devices import Allocation, DeviceType, Share, sum_of_rates

Floats = npt.NDArray[np.float64]

AS_FAST = 1e-12
"""Times that differ by no more of them are equal but for rounding: then fewer and larger passes are taken."""


@dataclass(frozen=True)
class _Table:
    """For a type of devices the least time of 0, 1, ... sequences."""

    seconds: Floats
    last: npt.NDArray[np.int64]
    """The size of the largest pass of a way that takes least; for 0 it is 0."""

    def most(self, seconds: float) -> int:
        """Return the largest number of sequences that is done in so many seconds, up to that of the table."""
        return int(np.searchsorted(self.seconds, seconds, "right")) - 1

    def passes(self, number: int) -> tuple[int, ...]:
        """Return the sizes of the passes in which so many sequences take least, the largest first."""
        found = []
        while number > 0:
            found.append(int(self.last[number]))
            number -= found[-1]
        return tuple(sorted(found, reverse=True))


def allocate_bottleneck(devices: Sequence[DeviceType], num_sequences: int, *, step_seconds: float = 0.0) -> Allocation:
    """Return the allocation that takes least time; `step_seconds` is what a step takes besides its passes.

    Raises ValueError if there is nothing to share.
    """
    if num_sequences < 1 or not devices:
        raise ValueError(f"{num_sequences} sequences on {len(devices)} types of devices; give one or more of each")
    tables = [
        _make_table(one.pass_seconds, limit)
        for one, limit in zip(devices, _limits(devices, num_sequences), strict=True)
    ]
    values = np.unique(np.concatenate([table.seconds[1:] for table in tables]))

    def capacity(seconds: float) -> int:
        return sum(one.number * table.most(seconds) for one, table in zip(devices, tables, strict=True))

    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if capacity(values[middle]) >= num_sequences:
            high = middle
        else:
            low = middle + 1
    least = float(values[low])
    surplus = capacity(least) - num_sequences
    shares = [
        Share(one.name, number, table.passes(size), float(table.seconds[size]))
        for one, table, groups in zip(devices, tables, _trimmed(devices, tables, least, surplus), strict=True)
        for number, size in groups
    ]
    seconds = max(share.seconds for share in shares) + step_seconds
    return Allocation(tuple(shares), seconds, seconds, num_sequences / (seconds * sum_of_rates(devices)))


def _limits(devices: Sequence[DeviceType], num_sequences: int) -> list[int]:
    """Return for each type a number of sequences that none of its devices has to exceed.

    Shares in proportion to rates suffice, so that the least time is at most theirs, in which a device does no more than
    its rate allows.
    """
    total = sum_of_rates(devices)
    enough = 0.0
    for one in devices:
        size = max(range(1, len(one.pass_seconds) + 1), key=lambda b: b / one.pass_seconds[b - 1])
        share = ceil(num_sequences * one.rate / total)
        enough = max(enough, ceil(share / size) * one.pass_seconds[size - 1])
    return [min(num_sequences, int(enough * one.rate * (1 + 1e-9)) + 1) for one in devices]


def _make_table(pass_seconds: Sequence[float], limit: int) -> _Table:
    times = np.asarray(pass_seconds, dtype=float)
    seconds, last = np.zeros(limit + 1), np.zeros(limit + 1, dtype=np.int64)
    for number in range(1, limit + 1):
        sizes = min(len(times), number)
        costs = seconds[number - sizes : number][::-1] + times[:sizes]
        seconds[number] = costs.min()
        last[number] = np.flatnonzero(costs <= seconds[number] * (1 + AS_FAST))[-1] + 1
    return _Table(seconds, last)  # it never falls: taking a sequence out of a pass costs nothing


def _trimmed(
    devices: Sequence[DeviceType], tables: Sequence[_Table], seconds: float, surplus: int
) -> list[list[tuple[int, int]]]:
    """Return for each type how many devices do how many sequences, after `surplus` is taken from the slowest.

    Without that each does as many as fit into the time.
    """
    groups = []
    for place, (one, table) in enumerate(zip(devices, tables, strict=True)):
        size = table.most(seconds)
        groups.append((-float(table.seconds[size]), place, size, one.number))
    heapify(groups)
    while surplus:
        _, place, size, number = heappop(groups)
        fewer = min(number, surplus)
        surplus -= fewer
        table = tables[place]
        heappush(groups, (-float(table.seconds[size - 1]), place, size - 1, fewer))
        if number > fewer:
            heappush(groups, (-float(table.seconds[size]), place, size, number - fewer))
    found: list[Counter[int]] = [Counter() for _ in devices]
    for _, place, size, number in groups:
        found[place][size] += number
    return [[(number, size) for size, number in sorted(own.items(), reverse=True)] for own in found]
