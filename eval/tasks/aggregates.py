"""What lm-eval makes one score of: the mean over questions, or another aggregation, whose interval is by bootstrap.

Draws are of questions, or of the passages that they share. All functions are pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isclose, isfinite, isnan, log
from typing import Any, NamedTuple

import numpy as np

from eval.statistics import interval_of_draws

MEAN, BITS_PER_BYTE, WHOLE = "mean", "bits_per_byte", "whole"
"""Names of aggregations: of each question's score the mean, of nats over bytes the ratio; `whole`: lm-eval has no name
for it."""

DRAWS = 1000
DRAWS_OF_OTHERS = 200
"""Draws of sklearn's scores, which take milliseconds each, and of a task's own, of which nobody knows how long."""

_LOGARITHMIC = ("perplexity", "weighted_perplexity")
_RANGES = {"f1": (0.0, 1.0), "matthews_corrcoef": (-1.0, 1.0), "brier_score": (0.0, 2.0), "bleu": (0.0, 100.0)}
_RANGES |= {"chrf": (0.0, 100.0), "chrf++": (0.0, 100.0), "ter": (0.0, inf)}
_CORPUS: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "bleu": ("BLEU", {}),
    "chrf": ("CHRF", {}),
    "chrf++": ("CHRF", {"word_order": 2}),
    "ter": ("TER", {}),
}
"""Scores of sacrebleu's that lm-eval has with its defaults: sums over sentences make them, which are counted once."""

_PROBES = ((0.0, 0.0, 1.0), (0.25, 1.0, 0.5, 0.0))
_MOST_LOST = 0.1
"""Share of draws of which a score cannot be made, at most, such as those with no right answer at all."""


class Bounds(NamedTuple):
    """The 95% interval of a score; None where there is none."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Aggregation:
    """How a task's score is made of what its questions scored."""

    name: str
    """lm-eval's name for it, `mean` for whatever gives the mean."""

    function: Callable[[Sequence[Any]], Any]
    corpus: Callable[[Sequence[Any]], tuple[Any, Sequence[str]]]
    """Returns references and texts of items, as sacrebleu takes them."""


def is_mean(aggregation: Aggregation, values: Sequence[float], score: float, *, probes: bool) -> bool:
    """Return whether a score is the mean of the values of questions, but for those that are NaN.

    With `probes` the function must give the mean of other numbers, too: a median can be the mean by chance.
    """
    own = [value for value in values if not isnan(value)]
    if not own or not isclose(score, sum(own) / len(own), rel_tol=1e-9, abs_tol=1e-12):
        return False
    try:
        given = [isclose(float(aggregation.function([*one])), sum(one) / len(one)) for one in _PROBES if probes]
    except Exception:  # whatever a function of others raises of numbers: it is of something else
        return False
    return all(given)


def bounds_of(
    aggregation: Aggregation, items: Sequence[Any], clusters: Sequence[str], score: float, *, seed: int = 0
) -> Bounds:
    """Return the interval of a score that is no mean, by bootstrap; none where draws of its items give no scores.

    `clusters` are empty of questions that share nothing.
    """
    if not isfinite(score) or aggregation.name == BITS_PER_BYTE:
        return Bounds()
    groups: dict[str, list[int]] = {}
    for number, cluster in enumerate(clusters):
        groups.setdefault(cluster or f"alone {number}", []).append(number)
    units = [np.asarray(own) for own in groups.values()]
    try:
        score_of = _scorer(aggregation, items)
        if len(units) < 2 or not isclose(score_of(np.concatenate(units)), score, rel_tol=1e-6, abs_tol=1e-9):
            return Bounds()
    except Exception:  # of a function of others, or of sacrebleu's
        return Bounds()
    is_quick = aggregation.name in (*_LOGARITHMIC, *_CORPUS, "median")
    drawn = _draw(score_of, units, DRAWS if is_quick else DRAWS_OF_OTHERS, seed)
    if drawn is None:
        return Bounds()
    if aggregation.name in _LOGARITHMIC:
        found = interval_of_draws(log(score), np.log(drawn), len(units))
        return Bounds(exp(found.low), min(exp(min(found.high, 700.0)), 1e300))
    found = interval_of_draws(score, drawn, len(units))
    least, most = _RANGES.get(aggregation.name, _range_of(items))
    return Bounds(max(least, found.low), min(most, found.high))


def _scorer(aggregation: Aggregation, items: Sequence[Any]) -> Callable[[Any], float]:
    """Return what gives the score of items by their numbers."""
    if (known := _CORPUS.get(aggregation.name)) is None:
        return lambda chosen: float(aggregation.function([items[one] for one in chosen]))
    from sacrebleu import metrics

    references, texts = aggregation.corpus(items)
    metric: Any = getattr(metrics, known[0])(**known[1])
    sums = np.asarray(metric._extract_corpus_statistics(texts, references))  # as its own bootstrap does
    return lambda chosen: float(metric._compute_score_from_stats(sums[chosen].sum(0)).score)


def _draw(score_of: Callable[[Any], float], units: Sequence[Any], number: int, seed: int) -> Any:
    """Return the scores of draws of units; None if too many have none, or all are the same."""
    generator = np.random.Generator(np.random.PCG64(seed))
    found = []
    for _ in range(number):
        chosen = np.concatenate([units[one] for one in generator.integers(0, len(units), len(units))])
        try:
            found.append(score_of(chosen))
        except Exception:  # such as a correlation of one class alone
            continue
    whole = [one for one in found if isfinite(one)]
    is_known = len(whole) >= number * (1 - _MOST_LOST) and min(whole) < max(whole)  # a median may not vary at all
    return np.asarray(whole) if is_known else None


def _range_of(items: Sequence[Any]) -> tuple[float, float]:
    """Return between what numbers a score of items lies, if they are shares; else between any."""
    is_share = all(isinstance(one, int | float) and 0 <= one <= 1 for one in items)
    return (0.0, 1.0) if is_share else (-inf, inf)
