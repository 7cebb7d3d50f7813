"""Intervals hold what they should as often as they say, and tests find what is there and no more."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from eval.statistics import (
    accuracy,
    bits_per_byte,
    clustered_error,
    compare_answers,
    compare_bits_per_byte,
    compare_clusters,
    detectable_difference,
    holm,
    mean_difference,
    sign_flip,
)


def test_bits_per_byte_of_a_uniform_guess_over_bytes_is_eight() -> None:
    found = bits_per_byte([100 * math.log(256), 50 * math.log(256)], [100, 50])
    assert (found.value, found.low, found.high) == pytest.approx((8, 8, 8))


def test_bits_per_byte_counts_bytes_not_characters_or_tokens() -> None:
    assert bits_per_byte([math.log(2)], [len("ខ្មែរ".encode())]).value == pytest.approx(1 / 15)


def test_one_document_says_nothing_of_others() -> None:
    assert bits_per_byte([1.0], [10]).high == math.inf


@pytest.mark.parametrize("number", [2, 3, 10])
@pytest.mark.parametrize("kind", ["bits", "clusters", "pairs", "clustered pairs", "texts"])
def test_intervals_of_few_documents_or_passages_hold_the_truth_too(kind: str, number: int) -> None:
    """Normal quantiles of the same errors held it 51 times of a hundred with two documents, 62 with two passages."""
    generator = np.random.Generator(np.random.PCG64(7))
    held, tries = 0, 150
    for seed in range(tries):
        passages = [str(one) for one in np.repeat(np.arange(number), 5)]
        if kind in ("bits", "texts"):
            sizes = generator.integers(50, 500, number)
            first, second = (math.log(2) * sizes * generator.normal(2.0, 0.4, number) for _ in range(2))
            if kind == "bits":
                truth, found = 2.0, bits_per_byte(first, sizes.tolist(), seed=seed)
            else:
                truth, found = 0.0, compare_bits_per_byte(first, second, sizes.tolist(), seed=seed).difference
        elif kind == "clusters":
            rights = generator.random((number, 5)) < generator.beta(2, 2, number)[:, None]
            truth, found = 0.5, accuracy(rights.ravel().astype(float).tolist(), passages)
        elif kind == "pairs":
            first, second = (generator.normal(0, 1, number).tolist() for _ in range(2))
            truth, found = 0.0, compare_answers(first, second, seed=seed).difference
        else:
            own = np.repeat(generator.normal(0, 1, number), 5)
            first, second = own + generator.normal(0, 1, len(own)), generator.normal(0, 1, len(own))
            found = compare_clusters(first.tolist(), second.tolist(), passages, [1.0] * len(own), seed=seed).difference
            truth = 0.0
        held += found.low <= truth <= found.high
    assert held / tries >= 0.88


def test_of_one_unit_nothing_is_known() -> None:
    assert accuracy([1.0, 0.0, 0.0, 0.0], ["a"] * 4).low == 0 and accuracy([1.0, 0.0, 0.0, 0.0], ["a"] * 4).high == 1
    assert accuracy([3.0, 5.0], ["a", "a"]).low == -math.inf
    for found in (compare_answers([1.0], [0.0]), compare_clusters([1.0, 1.0], [0.0, 1.0], ["a", "a"], [1.0, 1.0])):
        assert (found.difference.low, found.difference.high) == (-1, 1)  # as far as shares can be apart
        assert (found.error, found.p_value) == (math.inf, 1)


def test_answers_that_do_not_vary_have_no_error() -> None:
    """Clusters of 0.8 are all alike, whatever rounding makes of their sums."""
    assert clustered_error(np.asarray([1.0, 1.0, 1.0, 1.0, 0.0] * 2), ["a"] * 5 + ["b"] * 5) == 0
    assert detectable_difference([1.0] * 8) == 0


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_mean_over_languages_holds_the_truth_whether_questions_are_the_same_or_not(is_shared: bool) -> None:
    """Two models that are equally good; what both answer to a question is the same in nine of ten languages."""
    generator = np.random.Generator(np.random.PCG64(3))
    held, widths, tries = 0, [], 200
    for _ in range(tries):
        question = generator.integers(-1, 2, 100).astype(float)
        parts = []
        for language in range(10):
            own = generator.integers(-1, 2, 100).astype(float)
            change = np.where(generator.random(100) < 0.9, question, own) if is_shared else own
            units = [str(number) if is_shared else f"{language}/{number}" for number in range(100)]
            parts.append((change.tolist(), [1.0] * 100, units))
        found = mean_difference(parts)
        held += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
    assert 0.91 <= held / tries <= 0.99
    assert (np.mean(widths) > 0.25) == is_shared  # ten times as many questions tell more if they are others


@pytest.mark.parametrize("kind", ["bits", "right", "shares", "clusters"])
def test_intervals_hold_the_truth_nineteen_times_of_twenty(kind: str) -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    held, tries = 0, 200
    for seed in range(tries):
        if kind == "bits":
            sizes = generator.integers(100, 3000, 60)
            truth, found = (
                2.0,
                bits_per_byte(math.log(2) * sizes * generator.normal(2.0, 0.4, 60), sizes.tolist(), seed=seed),
            )
        elif kind == "right":
            truth, found = 0.3, accuracy((generator.random(80) < 0.3).astype(float).tolist())
        elif kind == "shares":
            truth, found = 0.5, accuracy(generator.random(80).tolist())
        else:  # questions on a passage are right together
            passages = np.repeat(np.arange(60), 5)
            values = (generator.random(60)[passages] < 0.4).astype(float)
            truth, found = 0.4, accuracy(values.tolist(), [str(one) for one in passages])
        held += found.low <= truth <= found.high
    assert 0.9 <= held / tries <= 0.99


def test_wilsons_interval_is_that_of_a_published_example_and_never_empty() -> None:
    published = accuracy([1.0] * 81 + [0.0] * 182)  # Newcombe, Statistics in Medicine 17, 1998, table I
    assert (published.low, published.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none, every = accuracy([0.0] * 10), accuracy([1.0] * 10)
    assert none.low == pytest.approx(0) and none.high > 0.2 and every.low < 0.8 and every.high == pytest.approx(1)


def test_errors_by_clusters_are_those_of_means_where_all_are_alike() -> None:
    values = np.repeat([0.0, 1.0, 1.0, 0.0, 1.0], 4)
    clusters = np.repeat(np.arange(5), 4)
    means = values.reshape(5, 4).mean(axis=1)
    assert clustered_error(values, clusters) == pytest.approx(means.std(ddof=1) / math.sqrt(5))
    assert clustered_error(values, ["one"] * 20) == math.inf


def test_a_difference_by_document_is_found_where_intervals_overlap() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    sizes = generator.integers(200, 2000, 50)
    first = sizes * generator.normal(1.0, 0.3, 50)
    second = first * 1.02
    one, other = bits_per_byte(first, sizes.tolist()), bits_per_byte(second, sizes.tolist())
    assert one.high > other.low
    found = compare_bits_per_byte(first, second, sizes.tolist())
    assert found.difference.low > 0 and found.p_value < 1e-6 and (found.num_better, found.num_worse) == (0, 50)
    same = compare_bits_per_byte(first, first, sizes.tolist())
    assert same.p_value == 1 and same.difference.low == same.difference.high == 0


def test_answers_are_compared_by_mcnemars_exact_test() -> None:
    first, second = [0.0] * 9 + [1.0] * 3 + [1.0] * 20, [1.0] * 9 + [0.0] * 3 + [1.0] * 20
    found = compare_answers(first, second)
    assert (found.num_better, found.num_worse) == (9, 3)
    assert found.p_value == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert found.difference.value == pytest.approx(6 / 32)
    assert found.difference.low < 0.1 < found.difference.high
    assert compare_answers(first, first).p_value == 1
    assert compare_answers([0.1, 0.5, 0.2], [0.4, 0.9, 0.3]).num_better == 3


def test_no_difference_is_found_where_there_is_none_but_one_time_in_twenty() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    found = 0
    for _ in range(300):
        first, second = ((generator.random(100) < 0.4).astype(float) for _ in range(2))
        found += compare_answers(first.tolist(), second.tolist()).p_value < 0.05
    assert found / 300 <= 0.06


def test_many_languages_are_tested_together() -> None:
    raw = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}
    assert holm(raw) == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5})
    assert list(holm(raw)) == list(raw) and holm({}) == {}


def test_what_can_be_found_shrinks_with_the_root_of_questions() -> None:
    assert detectable_difference([0.0, 1.0] * 250) == pytest.approx(
        2 * detectable_difference([0.0, 1.0] * 1000), rel=0.01
    )
    # two shares of 500 questions at one half: 2.8 * sqrt(2 * 0.25 / 500)
    assert detectable_difference([0.0, 1.0] * 250) == pytest.approx(0.0886, abs=1e-3)
    assert detectable_difference([1.0]) == math.inf


def test_clusters_that_are_all_alike_say_no_more_than_so_many_observations() -> None:
    groups = [str(i // 4) for i in range(40)]
    alike = accuracy([1.0, 0.0, 0.0, 0.0] * 10, groups)
    assert alike.value == 0.25 and alike.low < 0.1 and alike.high > 0.5
    one = accuracy([1.0, 0.0, 0.0, 0.0], ["a"] * 4)
    assert 0 <= one.low < 0.25 < one.high <= 1
    sure = accuracy([1.0] * 8 + [0.0], ["a"] * 4 + ["b"] * 4 + ["c"])
    assert sure.high <= 1


def test_clustered_differences_hold_the_truth_nineteen_times_of_twenty_and_find_none_where_none_is() -> None:
    """Passages of 1 to 9 questions, of which the first model gets the longer ones right more often."""
    generator = np.random.Generator(np.random.PCG64(4))
    held, found, tries = 0, 0, 200
    for seed in range(tries):
        lengths = generator.integers(1, 10, 60)
        passages = np.repeat(np.arange(60), lengths)
        first, second = ((generator.random(60) < 0.2 + 0.06 * lengths)[passages].astype(float) for _ in range(2))
        names = [str(one) for one in passages]
        one = compare_clusters(first.tolist(), second.tolist(), names, [1.0] * len(names), seed=seed)
        assert one.difference.value == pytest.approx(second.mean() - first.mean()) and one.num_pairs == 60
        held += one.difference.low <= 0 <= one.difference.high
        found += one.p_value < 0.05
    assert 0.9 <= held / tries <= 0.99 and found / tries <= 0.08


def test_flips_of_signs_are_mcnemars_test_of_ones_and_exact_of_others() -> None:
    ones = np.asarray([1.0] * 9 + [-1.0] * 3 + [0.0] * 5)
    assert sign_flip(ones) == pytest.approx(stats.binomtest(9, 12).pvalue)
    values = np.asarray([3.0, 1.0, -2.0, 5.0, 4.0])
    flips = [np.asarray(one) @ values for one in itertools.product((-1, 1), repeat=5)]
    assert sign_flip(values) == pytest.approx(np.mean(np.abs(flips) >= values.sum()))
    assert sign_flip(values * 0.37) == pytest.approx(sign_flip(values))
    assert sign_flip(np.zeros(4)) == 1
    many = np.random.Generator(np.random.PCG64(2)).normal(0.2, 1.0, 300)
    normal = 2 * stats.norm.sf(abs(many.sum()) / np.sqrt((many**2).sum()))
    assert sign_flip(many) == pytest.approx(normal, rel=0.1)


def test_what_can_be_found_is_of_the_clustered_error() -> None:
    values = [1.0] * 91 + [0.0] * 9
    clusters = ["long"] * 91 + [str(i) for i in range(9)]
    error = clustered_error(np.asarray(values), clusters)
    # Student's quantiles with 18 degrees of freedom, of two models with ten clusters each
    assert detectable_difference(values, clusters) == pytest.approx(
        math.sqrt(2) * error * (stats.t.ppf(0.975, 18) + stats.t.ppf(0.8, 18)), rel=1e-4
    )
    assert detectable_difference(values, ["one"] * 100) == math.inf
