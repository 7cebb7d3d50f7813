"""Each aggregation that lm-eval knows: whether it is a mean, and an interval that holds the score of a large sample."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from lm_eval.api import metrics
from lm_eval.api.registry import AGGREGATION_REGISTRY

from eval.tasks.aggregates import Aggregation, bounds_of, is_mean

Draw = Callable[[np.random.Generator, int], list[Any]]


def aggregation(name: str, function: Callable[[Sequence[Any]], Any] | None = None) -> Aggregation:
    given = AGGREGATION_REGISTRY[name] if function is None else function
    return Aggregation(name, given, lambda own: metrics._sacreformat(*map(list, zip(*own, strict=True))))


def numbers(generator: np.random.Generator, size: int) -> list[Any]:
    return [float(one) for one in generator.normal(-3.0, 1.0, size)]


def shares(generator: np.random.Generator, size: int) -> list[Any]:
    return [float(one) for one in generator.random(size)]


def weighted(generator: np.random.Generator, size: int) -> list[Any]:
    sizes = generator.integers(5, 50, size)
    return [(float(-3 * count * generator.normal(1, 0.2)), int(count)) for count in sizes]


def labels(generator: np.random.Generator, size: int) -> list[Any]:
    golds = generator.integers(0, 2, size)
    return [(int(gold), int(gold if generator.random() < 0.7 else 1 - gold)) for gold in golds]


def probabilities(generator: np.random.Generator, size: int) -> list[Any]:
    return [(int(generator.integers(0, 3)), generator.dirichlet([1, 1, 1])) for _ in range(size)]


def texts(generator: np.random.Generator, size: int) -> list[Any]:
    words = ["red", "green", "blue", "house", "river", "stone", "light", "water"]
    found = []
    for _ in range(size):
        own = [words[one] for one in generator.integers(0, 8, 9)]
        kept = [word if generator.random() < 0.7 else "other" for word in own]
        found.append((" ".join(own), " ".join(kept)))
    return found


DRAWN: dict[str, Draw] = {
    "median": shares,
    "perplexity": numbers,
    "weighted_perplexity": weighted,
    "f1": labels,
    "matthews_corrcoef": labels,
    "brier_score": probabilities,
    "bleu": texts,
    "chrf": texts,
    "chrf++": texts,
    "ter": texts,
}
OTHERS = {"mean", "nanmean", "bypass", "bits_per_byte"}
"""Means, one that scores nothing, and one whose interval is that of held-out documents."""


def test_every_aggregation_of_lm_evals_is_known() -> None:
    assert {*map(str, AGGREGATION_REGISTRY)} == DRAWN.keys() | OTHERS


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_no_mean_has_an_interval_of_its_own_that_holds_the_truth(name: str) -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    own, held, tries = aggregation(name), 0, 5
    truth = float(own.function(DRAWN[name](generator, 3000)))
    for seed in range(tries):
        items = DRAWN[name](generator, 60)
        score = float(own.function(items))
        found = bounds_of(own, items, [""] * 60, score, seed=seed)
        assert found.low is not None and found.high is not None and found.low <= score <= found.high
        held += found.low <= truth <= found.high
    assert held >= tries - 1
    values = [one if isinstance(one, float) else float("nan") for one in items]
    assert not is_mean(own, values, score, probes=True)


def test_a_mean_is_one_whatever_it_is_called_and_a_median_is_none_by_chance() -> None:
    zeros, mixed = [0.0] * 9, [1.0, 0.0, 0.0, 1.0, 1.0]
    for function in (metrics.mean, metrics.nanmean, np.mean, lambda own: sum(own) / len(own)):
        assert is_mean(aggregation("", function), mixed, 0.6, probes=True)
        assert is_mean(aggregation("", function), zeros, 0.0, probes=True)
        assert not is_mean(aggregation("", function), mixed, 0.7, probes=True)
    assert is_mean(aggregation("nanmean"), [*mixed, float("nan")], 0.6, probes=True)
    assert not is_mean(aggregation("median"), zeros, 0.0, probes=True)
    assert not is_mean(aggregation("bleu"), [float("nan")] * 3, 12.0, probes=True)


def test_questions_on_one_passage_are_drawn_together() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    items = [float(one) for one in np.repeat(generator.normal(-3, 1, 20), 5)]
    own = aggregation("perplexity")
    score = float(own.function(items))
    alone = bounds_of(own, items, [""] * 100, score)
    shared = bounds_of(own, items, [str(number // 5) for number in range(100)], score)
    assert None not in (*alone, *shared)
    assert shared.high / shared.low > 1.3 * alone.high / alone.low  # type: ignore[operator]
    assert bounds_of(own, items, ["one"] * 100, score) == (None, None)


def test_a_score_that_cannot_be_made_of_draws_has_no_interval() -> None:
    def raises(items: Sequence[Any]) -> float:
        raise ValueError

    for function in (raises, lambda items: 3.0, lambda items: float("nan")):
        assert bounds_of(aggregation("", function), [1.0, 2.0] * 9, [""] * 18, 3.0) == (None, None)
    assert bounds_of(aggregation("median"), [0.0] * 20 + [1.0], [""] * 21, 0.0) == (None, None)  # never another
    assert bounds_of(aggregation("bits_per_byte"), [(-3.0, 2)] * 9, [""] * 9, 3.0) == (None, None)
