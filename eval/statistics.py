"""Intervals and tests on scores. All functions are pure, and draw by seeds, so that anybody gets the same numbers.

Intervals are of 95%. Bootstraps are by document, or by cluster of questions (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, ch. 13); clustered errors as Miller has them (arXiv 2411.00640, section 2.2). Of few units both
would be too narrow: errors are multiplied by Student's quantile of one degree of freedom less than there are units, and
the distances of a bootstrap's percentiles from the value stretched to the same (T. Hesterberg, The American
Statistician 69, 2015, section 4.3). Of fewer than two units nothing is known.
"""

from collections import defaultdict
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
    error: float
    """Standard error of the difference; infinite with fewer than two units."""

    p_value: float
    num_better: int
    """Documents or questions, or clusters of them, on which the second is better."""

    num_worse: int
    num_pairs: int


def bits_per_byte(nats: Sequence[float] | Floats, num_bytes: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the bits for each byte over documents, with its interval by bootstrap over them.

    With fewer than two documents the interval is unbounded: nothing is known of others.
    """
    rows = np.column_stack((np.asarray(nats, dtype=float) / log(2), np.asarray(num_bytes, dtype=float)))
    value = float(rows[:, 0].sum() / rows[:, 1].sum())
    if len(rows) < 2:
        return Interval(value, 0.0, float("inf"))
    drawn = _resampled_sums(rows, seed)
    found = interval_of_draws(value, drawn[:, 0] / drawn[:, 1], len(rows))
    return Interval(value, max(0.0, found.low), found.high) if value >= 0 else found


def interval_of_draws(value: float, drawn: Floats, number: int) -> Interval:
    """Return the interval of a value, of which `drawn` are what resamples of so many units give.

    Percentiles of a bootstrap of n units are too close by the root of (n - 1) / n, and by the normal quantile where
    Student's is wanted.
    """
    if number < 2:
        return Interval(value, float("-inf"), float("inf"))
    stretch = sqrt(number / (number - 1)) * student(number - 1) / NORMAL.inv_cdf(_TAILS[1])
    low, high = (float(one) for one in np.quantile(drawn, _TAILS))
    return Interval(value, value + min(0.0, low - value) * stretch, value + max(0.0, high - value) * stretch)


def error_of_draws(drawn: Floats, number: int) -> float:
    """Return the standard error of a value, of which `drawn` are what resamples of so many units give."""
    return float(drawn.std()) * sqrt(number / (number - 1)) if number > 1 else float("inf")


def student(degrees: float, share: float = _TAILS[1]) -> float:
    """Return Student's quantile with so many degrees of freedom, at least one (Biometrika 6, 1908)."""
    from scipy.special import stdtrit  # which takes longer to import than a plan takes

    return float(stdtrit(max(1.0, degrees), share))


def compare_bits_per_byte(
    first: Sequence[float], second: Sequence[float], num_bytes: Sequence[float], *, seed: int = 0
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
    sums = _resampled_sums(rows, seed)
    drawn = (sums[:, 1] - sums[:, 0]) / sums[:, 2]
    better, worse = int((change < 0).sum()), int((change > 0).sum())
    return _comparison(value, drawn, p_value, better, worse, len(rows))


def _comparison(
    value: float, drawn: Floats, p_value: float, better: int, worse: int, number: int, *, most: float = float("inf")
) -> Comparison:
    """Return a comparison by what resamples of so many units give; a difference cannot be larger than `most`."""
    found = interval_of_draws(value, drawn, number)
    interval = Interval(value, max(-most, found.low), min(most, found.high))
    return Comparison(interval, error_of_draws(drawn, number), p_value, better, worse, number)


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
    minus Student's quantile of errors, clustered where questions share a passage. Of one cluster nothing is known.
    """
    scores = np.asarray(values, dtype=float)
    mean = float(scores.mean())
    of = [*clusters] if clusters is not None and len(set(clusters)) < len(scores) else None
    is_share = bool(((scores >= 0) & (scores <= 1)).all())
    if of is None and np.isin(scores, (0.0, 1.0)).all():
        return Interval(mean, *wilson(mean, len(scores)))
    number = len(set(of)) if of is not None else len(scores)
    error = clustered_error(scores, of if of is not None else range(len(scores)))
    if is_share and not error:  # clusters that are all alike say no more than so many questions do
        return Interval(mean, *wilson(mean, number))
    half = student(number - 1) * error
    least, most = (0.0, 1.0) if is_share else (float("-inf"), float("inf"))
    return Interval(mean, max(least, mean - half), min(most, mean + half))


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
    sums[np.abs(sums) < 1e-9 * max(1.0, float(np.abs(values).max()))] = 0.0  # what rounding leaves of no difference
    return float(sqrt((sums**2).sum() * number / (number - 1)) / len(values))


def compare_answers(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Comparison:
    """Return how much better a second model answers the same questions: paired bootstrap, exact McNemar.

    Where answers are more than right or wrong, the p-value is that of Wilcoxon's signed-rank test.
    """
    from scipy import stats

    change = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    means = _resampled_sums(change[:, None], seed)[:, 0] / len(change)
    if len(change) < 2 or not change.any():
        p_value = 1.0
    elif np.isin(change, (-1.0, 0.0, 1.0)).all():
        p_value = float(stats.binomtest(better, better + worse).pvalue)
    else:
        p_value = float(stats.wilcoxon(change).pvalue)
    return _comparison(float(change.mean()), means, p_value, better, worse, len(change), most=_most(first, second))


def _most(*answers: Sequence[float]) -> float:
    """Return how far means of answers can be from each other: those of right and wrong, 1."""
    return 1.0 if all(0 <= one <= 1 for own in answers for one in own) else float("inf")


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
    drawn = _resampled_sums(rows, seed)
    p_value = sign_flip(change) if len(rows) > 1 else 1.0
    most = _most(first, second) if all(size == 1 for size in sizes) else float("inf")
    return _comparison(value, drawn[:, 0] / drawn[:, 1], p_value, better, worse, len(rows), most=most)


def mean_difference(parts: Sequence[tuple[Sequence[float], Sequence[float], Sequence[str]]]) -> Interval:
    """Return the mean over languages of differences, each language with the same weight, and its interval.

    A part is a language: the changes of its answers, their sizes, over whose sum that of the changes is the difference,
    and the unit of each answer. Answers of one unit are no independent observations, also those of several languages,
    as to a question that is the same in each: errors are clustered by units.
    """
    value, most, count, sums = 0.0, 0, 0, defaultdict[str, float](float)
    for changes, sizes, units in parts:
        change, size = (np.asarray(one, dtype=float) for one in (changes, sizes))
        own, number = float(change.sum() / size.sum()), len(set(units))
        if number < 2:
            return Interval(sum(sum(c) / sum(s) for c, s, _ in parts) / len(parts), float("-inf"), float("inf"))
        value += own / len(parts)
        scale = sqrt(number / (number - 1)) / len(parts) / float(size.sum())
        for unit, one in zip(units, (change - own * size).tolist(), strict=True):
            sums[unit] += one * scale
        most, count = max(most, number), count + number
    degrees = most - 1 if len(sums) < count else count - len(parts)
    half = student(degrees) * sqrt(sum(one**2 for one in sums.values()))
    return Interval(value, value - half, value + half)


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
    """Return the least difference of two means of such scores, unpaired, that a test at 5% finds with this power.

    0 where scores do not vary, which says nothing of how those of others would; infinite with fewer than two units.
    """
    of = clusters if clusters is not None else range(len(values))
    error = clustered_error(np.asarray(values, dtype=float), of)
    return detectable(sqrt(2) * error, degrees=2 * (len(set(of)) - 1), power=power)


def detectable(error: float, *, degrees: float, power: float = 0.8, num_tests: int = 1) -> float:
    """Return the least difference that a test at 5% finds with this power, given its standard error.

    With several tests that is the first of Holm's, which is the strictest (J. Cohen, Statistical Power Analysis, 1988).
    """
    return error * (student(degrees, 1 - (1 - LEVEL) / 2 / num_tests) + student(degrees, power))
