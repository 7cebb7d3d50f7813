"""The scales of charts: which points to draw, how far to reach, which round values to mark, how to write them."""

import math
from collections.abc import Sequence

_MAX_POINTS = 1200
_MIN_POINTS_TO_CLIP = 10


def scale_limit(values: Sequence[float], references: Sequence[float] = ()) -> float:
    """Return the largest value that a scale has to hold: the maximum, unless a few spikes would rule it.

    Up to a twentieth of the values, at least one, are spikes if the smallest of them is so far above the next that
    without them all others take less than half of the range. References are always held; fewer than ten values have no
    spikes.
    """
    ordered = sorted(values)
    high = ordered[-1]
    if len(ordered) >= _MIN_POINTS_TO_CLIP:
        for num_spikes in range(max(1, len(ordered) // 20), 0, -1):
            most, spike = ordered[-num_spikes - 1], ordered[-num_spikes]
            if spike - ordered[0] > 2 * (most - ordered[0]):
                high = most
                break
    return max(high, *references) if references else high


def thin(points: Sequence[tuple[float, float]], limit: int = _MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most `limit` points: means of equally many neighbours, of the last ones perhaps fewer."""
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return list(points)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def ticks(low: float, high: float, *, outward: bool = False) -> list[float]:
    """Return about five round numbers, evenly spaced: those within low..high, or those that enclose it (`outward`).

    `low` must be less than `high`.
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    slack = -1e-9 if outward else 1e-9
    first, last = low / step - slack, high / step + slack
    ends = (math.floor(first), math.ceil(last)) if outward else (math.ceil(first), math.floor(last))
    return [i * step for i in range(ends[0], ends[1] + 1)]


def format_ticks(values: Sequence[float]) -> list[str]:
    """Write the numbers with the fewest decimals, the same for all, that tell them apart."""
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    decimals = next((d for d in range(7) if abs(step * 10**d - round(step * 10**d)) < 1e-6 * step * 10**d), 6)
    return [f"{value:,.{decimals}f}" if decimals < 6 else f"{value:g}" for value in values]


def padded(low: float, high: float) -> tuple[float, float]:
    """Return the range, widened if it has no width."""
    margin = abs(low) * 0.1 or 1.0
    return (low, high) if low < high else (low - margin, high + margin)


def significant(value: float) -> str:
    """Write a number with three significant digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
