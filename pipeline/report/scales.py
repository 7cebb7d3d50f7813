"""Numbers for charts: which points to draw, which round values to mark, how to write them."""

import math
from collections.abc import Sequence


def thin(points: Sequence[tuple[float, float]], limit: int = 1200) -> list[tuple[float, float]]:
    """At most `limit` points: the means of runs of neighbours of equal length, the last run perhaps shorter."""
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return list(points)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def ticks(low: float, high: float, *, outward: bool = False) -> list[float]:
    """About five round numbers, evenly spaced: those within low..high, or `outward` those that enclose it.

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
    """The numbers with the fewest decimals, the same for all, that tell them apart."""
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    decimals = next((d for d in range(7) if abs(step * 10**d - round(step * 10**d)) < 1e-6 * step * 10**d), 6)
    return [f"{value:,.{decimals}f}" if decimals < 6 else f"{value:g}" for value in values]


def padded(low: float, high: float) -> tuple[float, float]:
    """The range, widened if it has no width."""
    margin = abs(low) * 0.1 or 1.0
    return (low, high) if low < high else (low - margin, high + margin)


def significant(value: float) -> str:
    """Three significant digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
