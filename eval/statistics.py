"""Intervals and tests on scores. All functions are pure, and draw by seeds, so that anybody gets the same numbers.

Intervals are of 95%. Bootstraps are by document, or by cluster of questions (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, ch. 13); clustered errors as Miller has them (arXiv 2411.00640, section 2.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_BLOCK = 1 << 22
"""Draws that are held at a time."""

_GRID = 1 << 14
"""Steps of the sum of all changes that a sign-flip test tells apart."""

Floats = npt.NDArray[np.float64]

NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How a second set of answers differs from a first on the same questions."""

    difference: Interval
    p_value: float
    num_better: int
    """Documents or questions, or clusters of them, on which the second is better."""

    num_worse: int
    num_pairs: int


def bits_per_byte(nats: Sequence[float] | Floats, num_bytes: Sequence[int], *, seed: int = 0) -> Interval:
    """Return the bits for each byte over documents, with its interval by bootstrap over them.

    With fewer than two documents the interval is unbounded: nothing is known of others.
    """
    rows = np.column_stack((np.asarray(nats, dtype=float) / log(2), np.asarray(num_bytes, dtype=float)))
    value = float(rows[:, 0].sum() / rows[:, 1].sum())
    if len(rows) < 2:
        return Interval(value, 0.0, float("inf"))
    drawn = _resampled_sums(rows, seed)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], _TAILS)
    return Interval(value, float(low), float(high))


def compare_bits_per_byte(
    first: Sequence[float], second: Sequence[float], num_bytes: Sequence[int], *, seed: int = 0
) -> Comparison:
    """Return how many bits per byte a second model takes more than a first on the same documents (paired bootstrap).

    The p-value is that of Wilcoxon's signed-rank test over documents.
    """
    from scipy import stats  # which takes longer to import than a plan takes

    rows = np.column_stack([np.asarray(part, dtype=float) for part in (first, second, num_bytes)])
    rows[:, :2] /= log(2)
    change = rows[:, 1] - rows[:, 0]
    value = float(change.sum() / rows[:, 2].sum())
    p_value = float(stats.wilcoxon(change).pvalue) if len(rows) > 1 and change.any() else 1.0
    if len(rows) < 2:
        return Comparison(Interval(value, float("-inf"), float("inf")), 1.0, 0, 0, len(rows))
    drawn = _resampled_sums(rows, seed)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / drawn[:, 2], _TAILS)
    return Comparison(
        Interval(value, float(low), float(high)), p_value, int((change < 0).sum()), int((change > 0).sum()), len(rows)
    )


def _resampled_sums(rows: Floats, seed: int) -> Floats:
    """Return the sums of the columns over as many rows as there are, drawn with replacement, (RESAMPLES, columns)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    number = len(rows)
    found = []
    for start in range(0, RESAMPLES, step := max(1, _BLOCK // number)):
        size = min(step, RESAMPLES - start)
        found.append(rows[generator.integers(0, number, (size, number))].sum(axis=1))
    return np.concatenate(found)


def accuracy(values: Sequence[float], clusters: Sequence[str] | None = None) -> Interval:
    """Return the mean of scores of questions with its interval.

    Wilson's where each is right or wrong and they are independent (E. B. Wilson, JASA 22, 1927); else the mean plus and
    minus 1.96 errors, clustered where questions share a passage.
    """
    scores = np.asarray(values, dtype=float)
    mean = float(scores.mean())
    of = [*clusters] if clusters is not None and len(set(clusters)) < len(scores) else None
    is_share = bool(((scores >= 0) & (scores <= 1)).all())
    if of is None and np.isin(scores, (0.0, 1.0)).all():
        return Interval(mean, *wilson(mean, len(scores)))
    error = clustered_error(scores, of if of is not None else range(len(scores)))
    if is_share and not 0 < error < float("inf"):  # clusters that are all alike, or one, say no more than so many do
        return Interval(mean, *wilson(mean, len(set(of)) if of is not None else len(scores)))
    half = NORMAL.inv_cdf(_TAILS[1]) * error
    return (
        Interval(mean, max(0.0, mean - half), min(1.0, mean + half))
        if is_share
        else Interval(mean, mean - half, mean + half)
    )


def wilson(share: float, number: int) -> tuple[float, float]:
    """Return the interval of a share of so many independent observations (E. B. Wilson, JASA 22, 1927)."""
    z = NORMAL.inv_cdf(_TAILS[1])
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z * sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_error(values: Floats, clusters: Sequence[object]) -> float:
    """Return the standard error of a mean over questions that come in clusters; infinite with fewer than two."""
    _, of = np.unique(np.asarray([str(one) for one in clusters]), return_inverse=True)
    number = int(of.max()) + 1 if len(of) else 0
    if number < 2:
        return float("inf")
    sums = np.bincount(of, weights=values - values.mean(), minlength=number)
    return float(sqrt((sums**2).sum() * number / (number - 1)) / len(values))


def compare_answers(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Comparison:
    """Return how much better a second model answers the same questions: paired bootstrap, exact McNemar.

    Where answers are more than right or wrong, the p-value is that of Wilcoxon's signed-rank test.
    """
    from scipy import stats

    change = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    if len(change) < 2:
        return Comparison(Interval(float(change.mean()), float("-inf"), float("inf")), 1.0, better, worse, len(change))
    means = _resampled_sums(change[:, None], seed)[:, 0] / len(change)
    low, high = (float(one) for one in np.quantile(means, _TAILS))
    if not change.any():
        p_value = 1.0
    elif np.isin(change, (-1.0, 0.0, 1.0)).all():
        p_value = float(stats.binomtest(better, better + worse).pvalue)
    else:
        p_value = float(stats.wilcoxon(change).pvalue)
    return Comparison(Interval(float(change.mean()), low, high), p_value, better, worse, len(change))


def compare_clusters(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], sizes: Sequence[float], *, seed: int = 0
) -> Comparison:
    """Return how a second model's score differs on the same questions, which come in clusters (cluster bootstrap).

    The score is the sum of the values over that of the sizes, which for right and wrong answers are 1. The p-value is
    that of a sign-flip test on the sums of the clusters. `num_better` are those on which the second has more.
    """
    _, of = np.unique(np.asarray(clusters), return_inverse=True)
    changes = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    sums = [np.bincount(of, weights=part).astype(float) for part in (changes, np.asarray(sizes, dtype=float))]
    change, rows = sums[0], np.column_stack(sums)
    value = float(rows[:, 0].sum() / rows[:, 1].sum())
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    if len(rows) < 2:
        return Comparison(Interval(value, float("-inf"), float("inf")), 1.0, better, worse, len(rows))
    drawn = _resampled_sums(rows, seed)
    low, high = (float(one) for one in np.quantile(drawn[:, 0] / drawn[:, 1], _TAILS))
    return Comparison(Interval(value, low, high), sign_flip(change), better, worse, len(rows))


def sign_flip(sums: Floats) -> float:
    """Return the p-value of a total of numbers, each of which could as well have had the other sign, over all flips.

    Exact of whole numbers, as counts of right answers are, and with 1 and -1 McNemar's; others are rounded to a grid
    (R. A. Fisher, The Design of Experiments, 1935, section 21).
    """
    total = float(np.abs(sums).sum())
    is_whole = total <= _GRID and bool((np.mod(sums, 1) == 0).all())
    steps = np.rint(sums if is_whole or not total else sums / total * _GRID).astype(int)
    reach = int(np.abs(steps).sum())
    shares = np.zeros(2 * reach + 1)  # of flips that give -reach, ..., reach
    shares[reach] = 1.0
    for step in steps[steps != 0].tolist():
        shares = (np.roll(shares, step) + np.roll(shares, -step)) / 2
    places = np.arange(-reach, reach + 1)
    return min(1.0, float(shares[np.abs(places) >= abs(int(steps.sum()))].sum()))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that hold for all tests together (S. Holm, Scand. J. Statist. 6, 1979), by name."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, (name, p_value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def detectable_difference(
    values: Sequence[float], clusters: Sequence[str] | None = None, *, power: float = 0.8
) -> float:
    """Return the least difference of two means of such scores, unpaired, that a test at 5% finds with this power."""
    error = clustered_error(np.asarray(values, dtype=float), clusters or range(len(values)))
    return detectable(sqrt(2) * error, power=power)


def detectable(error: float, *, power: float = 0.8, num_tests: int = 1) -> float:
    """Return the least difference that a test at 5% finds with this power, given its standard error.

    With several tests that is the first of Holm's, which is the strictest (J. Cohen, Statistical Power Analysis, 1988).
    """
    return error * (NORMAL.inv_cdf(1 - (1 - LEVEL) / 2 / num_tests) + NORMAL.inv_cdf(power))
