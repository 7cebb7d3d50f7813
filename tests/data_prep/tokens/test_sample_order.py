"""The order of samples: each epoch a permutation, each place a pure function, each stream its share."""

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokens.sample_order import Order, Phase, Samples, Stream, _floor_sum

Sample = tuple[int, int, int]
"""Stream, epoch, index."""

SIZES = (613, 89, 1, 307, 40)


def order_of(
    sizes: tuple[int, ...],
    weights: tuple[float, ...] | None = None,
    *,
    seed: int,
    phases: tuple[tuple[int | None, tuple[float, ...]], ...] = (),
) -> Order:
    """Make an order of streams that are drawn in proportion to their sizes, or to the weights, or in phases."""
    drawn = weights or tuple(size / sum(sizes) for size in sizes)
    streams = [Stream("web", f"l{i}", size) for i, size in enumerate(sizes)]
    return Order(streams, [Phase(*phase) for phase in phases or ((None, drawn),)], seed=seed)


def rows(samples: Samples) -> list[Sample]:
    return list(zip(samples.stream.tolist(), samples.epoch.tolist(), samples.index.tolist(), strict=True))


def draws(order: Order, start: int, stop: int) -> list[tuple[int, int]]:
    """Return stream and index without the epoch: the text that is read."""
    return [(stream, index) for stream, _, index in rows(order.samples(start, stop))]


def permutation(size: int, *, seed: int = 0, epoch: int = 0) -> list[int]:
    order = order_of((size,), seed=seed)
    return [int(index) for index in order.samples(epoch * size, (epoch + 1) * size).index]


sizes_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=5).map(tuple)
seeds = st.integers(0, 2**63)


@given(sizes_strategy, seeds, st.data())
@settings(max_examples=60, deadline=None)
def test_order_reads_every_sample_once_an_epoch_of_its_stream(
    sizes: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    weights = tuple(data.draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes))))
    order = order_of(sizes, weights, seed=seed)
    places = 4 * sum(sizes)
    seen = Counter(rows(order.samples(0, places)))
    assert set(seen.values()) == {1}
    drawn = order.count_by_stream(places).tolist()
    for stream, size in enumerate(sizes):
        for epoch in range(drawn[stream] // size):
            assert all((stream, epoch, index) in seen for index in range(size))
    assert sum(drawn) == places
    assert all(0 <= index < sizes[stream] for stream, _, index in seen)


@given(st.integers(1, 500), seeds, st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection_in_any_epoch(size: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(size, seed=seed, epoch=epoch)) == list(range(size))


@given(seeds, st.integers(0, 10**13), st.lists(st.integers(0, 300), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_sample_does_not_depend_on_how_the_range_is_cut(seed: int, start: int, cuts: list[int]) -> None:
    order = order_of(SIZES, seed=seed)
    ends = [start + cut for cut in sorted(cuts)]
    pieces = [row for low, high in pairwise(ends) for row in rows(order.samples(low, high))]
    assert pieces == rows(order_of(SIZES, seed=seed).samples(ends[0], ends[-1]))


@given(seeds, st.integers(1, 7), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_samples_of_a_step_do_not_depend_on_ranks_and_micro_batches(
    seed: int, batch: int, world_size: int, micro: int
) -> None:
    order = order_of(SIZES, seed=seed)
    for step in (0, 3, 10**9):
        whole = rows(order.samples(step * batch, (step + 1) * batch))
        shares: list[list[Sample]] = [[] for _ in range(world_size)]
        for first in range(0, batch, world_size * micro):
            for place in range(first, min(batch, first + world_size * micro)):
                shares[place % world_size] += rows(order.samples(step * batch + place, step * batch + place + 1))
        assert sorted(row for share in shares for row in share) == sorted(whole)


@pytest.mark.parametrize("seed", range(5))
def test_one_stream_extended_half_way_from_1_to_1_5_epochs_repeats_nothing(seed: int) -> None:
    size = 1000
    planned = draws(order_of((size,), seed=seed), 0, size)
    extended = order_of((size,), seed=seed)
    half, rest = planned[: size // 2], draws(extended, size // 2, size * 3 // 2)
    assert rest[: size // 2] == planned[size // 2 :]
    assert len(set(half) & set(rest[: size // 2])) == 0
    assert set(half) | set(rest[: size // 2]) == {(0, i) for i in range(size)}
    assert len(set(rest[size // 2 :])) == size // 2, "the second epoch's half holds nothing twice either"


@pytest.mark.parametrize("seed", range(5))
def test_a_mixture_extended_half_way_from_1_to_1_5_epochs_repeats_nothing(seed: int) -> None:
    sizes, total = SIZES, sum(SIZES)
    half = draws(order_of(sizes, seed=seed), 0, total // 2)
    extended = order_of(sizes, seed=seed)
    rest = draws(extended, total // 2, total)
    # A stream may have had its share a draw before the others: such draws begin its second epoch.
    early = int(np.maximum(extended.count_by_stream(total) - np.array(sizes), 0).sum())
    assert early <= len(sizes)
    first_epoch = [row for row in rows(extended.samples(total // 2, total)) if row[1] == 0]
    assert len(first_epoch) == len(rest) - early
    assert len({(stream, index) for stream, _, index in first_epoch} & set(half)) == 0
    assert len(set(half)) == len(half)
    assert len({*half, *rest}) == total - early


@given(sizes_strategy, seeds, st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_counts_equal_counting(sizes: tuple[int, ...], seed: int, k: int) -> None:
    order = order_of(sizes, seed=seed)
    counted = Counter(stream for stream, _, _ in rows(order.samples(0, k)))
    assert order.count_by_stream(k).tolist() == [counted[i] for i in range(len(sizes))]


@pytest.mark.parametrize("start", [10**12, 2**40 - 7, 10**15 + 1])
def test_counts_far_out_grow_by_what_is_drawn(start: int) -> None:
    order = order_of(SIZES, seed=3)
    stop = start + 5000
    counted = Counter(stream for stream, _, _ in rows(order.samples(start, stop)))
    drawn = order.count_by_stream(stop) - order.count_by_stream(start)
    assert drawn.tolist() == [counted[i] for i in range(len(SIZES))]
    assert order.count_by_stream(stop).sum() == stop


@given(seeds, st.integers(1, 10**9) | st.integers(1, 10**14), st.lists(st.floats(0.001, 1), min_size=2, max_size=8))
@settings(max_examples=150, deadline=None)
def test_shares_are_kept_at_any_place(seed: int, k: int, weights: list[float]) -> None:
    order = order_of((7,) * len(weights), tuple(weights), seed=seed)
    exact = [Fraction(weight) / sum(map(Fraction, weights)) * k for weight in weights]
    away = max(abs(count - share) for count, share in zip(order.count_by_stream(k).tolist(), exact, strict=True))
    # 64 bits of the golden ratio are as good as all of it up to about 2**32; then some dozens come in.
    assert away < (2 + 0.63 * math.log(k) if k < 2**32 else 60)


@pytest.mark.parametrize(("one", "other"), [({"seed": 0}, {"seed": 1}), ({"epoch": 0}, {"epoch": 1})])
def test_seeds_and_epochs_shuffle_differently(one: dict[str, int], other: dict[str, int]) -> None:
    first, second = permutation(1000, **one), permutation(1000, **other)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 12  # one on average
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 0.15


def test_streams_of_one_size_shuffle_differently() -> None:
    order = rows(order_of((500, 500), seed=0).samples(0, 1000))
    first, second = ([index for stream, _, index in order if stream == i] for i in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=False)) < 12


def test_large_permutations_look_random() -> None:
    size, trials = 1000, 40
    shuffles = np.array([permutation(size, seed=seed) for seed in range(trials)])
    assert (shuffles == np.arange(size)).sum() < 3 * trials  # one fixed point each on average
    displacement = np.abs(shuffles - np.arange(size)).mean()
    assert displacement == pytest.approx(size / 3, rel=0.03)
    rising = (np.diff(shuffles, axis=1) > 0).mean()
    assert rising == pytest.approx(0.5, abs=0.02)
    assert shuffles.mean(axis=0).std() == pytest.approx(size / math.sqrt(12 * trials), rel=0.15)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_small_permutations_take_every_form(size: int) -> None:
    epochs = 3000
    forms = order_of((size,), seed=0).samples(0, epochs * size).index.reshape(epochs, size)
    assert len(np.unique(forms, axis=0)) == math.factorial(size)
    for place in range(size):
        assert np.bincount(forms[:, place], minlength=size) == pytest.approx(epochs / size, rel=0.15)


@given(st.integers(0, 60), st.integers(1, 90), st.integers(0, 200), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_floor_sum_equals_adding_up(n: int, m: int, a: int, b: int) -> None:
    assert _floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


phases_strategy = st.lists(
    st.tuples(st.integers(1, 80), st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 1))),
    min_size=1,
    max_size=4,
).map(tuple)


def test_an_order_of_one_phase_is_what_it_was_before_there_were_several() -> None:
    """The numbers are of commit 8c0db65: a training that began then goes on in its order."""
    order = order_of((800, 100, 100), (0.6, 0.3, 0.1), seed=5)
    samples = order.samples(10**6, 10**6 + 6)
    assert rows(samples) == [(1, 3000, 29), (0, 750, 215), (0, 750, 254), (1, 3000, 18), (0, 750, 535), (2, 1000, 7)]
    assert order.count_by_stream(10**6).tolist() == [600_000, 300_000, 100_000]


@given(phases_strategy, seeds)
@settings(max_examples=60, deadline=None)
def test_phases_follow_each_other_and_go_on_with_the_draws(phases: Any, seed: int) -> None:
    """Every stream is read on where the phase before left it, by counting as by reading, at each place."""
    order, sizes = order_of((13, 5, 29), seed=seed, phases=phases), (13, 5, 29)
    places = sum(length for length, _ in phases) + 40
    read = rows(order.samples(0, places))
    assert [row for k in range(places) for row in rows(order.samples(k, k + 1))] == read
    for stream, size in enumerate(sizes):
        own = [(epoch, index) for i, epoch, index in read if i == stream]
        assert [epoch for epoch, _ in own] == [draw // size for draw in range(len(own))]
        assert len(set(own)) == len(own)
        at = [place for place, row in enumerate(read) if row[0] == stream]
        assert [order.find_place(stream, draw) for draw in range(len(at))] == at
    for k in range(0, places, 7):
        counted = Counter(stream for stream, _, _ in read[:k])
        assert order.count_by_stream(k).tolist() == [counted[i] for i in range(3)]


@given(phases_strategy, seeds)
@settings(max_examples=30, deadline=None)
def test_a_phase_that_is_added_changes_no_sample_before_it(phases: Any, seed: int) -> None:
    whole, places = order_of((13, 5, 29), seed=seed, phases=phases), sum(length for length, _ in phases)
    longer = order_of((13, 5, 29), seed=seed, phases=(*phases, (None, (1.0, 0.0, 0.0))))
    assert rows(whole.samples(0, places)) == rows(longer.samples(0, places))
    assert set(longer.samples(places, places + 50).stream.tolist()) == {0}


@pytest.mark.parametrize(
    "weights", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]
)
def test_a_stream_without_weight_is_never_read(weights: tuple[float, ...]) -> None:
    counts = order_of((13, 5, 29), weights, seed=1).count_by_stream(1000)
    read = Counter(order_of((13, 5, 29), weights, seed=1).samples(0, 1000).stream.tolist())
    assert [read[i] for i in range(3)] == counts.tolist()
    assert [count > 0 for count in counts] == [weight > 0 for weight in weights]


@given(sizes_strategy, seeds, st.data())
@settings(max_examples=60, deadline=None)
def test_place_of_a_draw_is_where_counting_finds_it(sizes: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    weights = tuple(data.draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes))))
    order = order_of(sizes, weights, seed=seed)
    stream_at = order.samples(0, 300).stream.tolist()
    for stream in range(len(sizes)):
        places = [place for place, drawn in enumerate(stream_at) if drawn == stream]
        assert [order.find_place(stream, draw) for draw in range(len(places))] == places


@given(seeds, st.integers(0, 10**13), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_place_of_a_draw_far_out_holds_that_draw(seed: int, draw: int, stream: int) -> None:
    order = order_of(SIZES, seed=seed)
    (sample,) = rows(order.samples(place := order.find_place(stream, draw), place + 1))
    assert order.count_by_stream(place)[stream] == draw
    assert sample[:2] == (stream, draw // SIZES[stream])


@given(sizes_strategy, seeds, st.integers(0, 250), st.data())
@settings(max_examples=60, deadline=None)
def test_draws_of_a_sample_are_those_that_reading_finds(
    sizes: tuple[int, ...], seed: int, num_places: int, data: st.DataObject
) -> None:
    order = order_of(sizes, seed=seed)
    read: dict[int, list[int]] = {stream: [] for stream in range(len(sizes))}
    for stream, _, index in rows(order.samples(0, num_places)):
        read[stream].append(index)
    chosen = [data.draw(st.integers(0, size - 1)) for size in sizes]
    expected = [[i for i, index in enumerate(read[stream]) if index == chosen[stream]] for stream in read]
    assert [order.find_draws(stream, chosen[stream], len(read[stream])) for stream in read] == expected
    counted = order.count_draws(np.array(chosen), order.count_by_stream(num_places))
    assert counted.tolist() == [len(draws) for draws in expected]
