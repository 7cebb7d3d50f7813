"""Shares among unlike devices: the least time there is, against every way that there is; and at full size."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise, product
from math import inf, isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.allocation import cover
from training.allocation.bottleneck import allocate_bottleneck
from training.allocation.cover import allocate_cover
from training.allocation.devices import Allocation, DeviceType, make_monotone, sum_of_rates


@st.composite
def devices(draw: st.DrawFn) -> list[DeviceType]:
    """One to three types of one or two devices, with times that rise as they like, also not at all."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        rises = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), min_size=0, max_size=3))
        times = [draw(st.sampled_from([0.5, 1.0, 4.0]))]
        for rise in rises:
            times.append(times[-1] + rise)
        found.append(DeviceType(f"type-{number}", draw(st.integers(1, 2)), tuple(times)))
    return found


def ranks(types: Sequence[DeviceType]) -> list[DeviceType]:
    return [one for one in types for _ in range(one.number)]


def least_bottleneck(types: Sequence[DeviceType], wanted: int) -> float:
    """The least time over all ways to share, each device by its best passes."""

    @cache
    def alone(place: int, number: int) -> float:
        times = ranks(types)[place].pass_seconds
        sizes = range(1, min(len(times), number) + 1)
        return min((times[size - 1] + alone(place, number - size) for size in sizes), default=0.0)

    @cache
    def best(place: int, left: int) -> float:
        if place == len(ranks(types)):
            return 0.0 if left == 0 else inf
        return min(max(alone(place, own), best(place + 1, left - own)) for own in range(left + 1))

    return best(0, wanted)


def least_cover(types: Sequence[DeviceType], wanted: int, cost: float, *, overlaps: bool) -> float:
    """The least time over all passes, of all micro-batches of all ranks, that sum up to what is wanted."""
    items: dict[int, float] = {}
    for sizes in product(*(range(len(one.pass_seconds) + 1) for one in ranks(types))):
        if total := sum(sizes):
            slowest = max(one.pass_seconds[size - 1] for one, size in zip(ranks(types), sizes, strict=True) if size)
            seconds = max(slowest, cost) if overlaps else slowest + cost
            items[total] = min(items.get(total, inf), seconds)
    least = [0.0] + [inf] * wanted
    for number in range(1, wanted + 1):
        for total, seconds in items.items():
            if total <= number:
                least[number] = min(least[number], least[number - total] + seconds)
    return least[wanted]


def check(found: Allocation, types: Sequence[DeviceType], wanted: int) -> None:
    """Every sequence once, every rank once, no micro-batch above what memory holds, and the times that are told."""
    assert sum(one.num_ranks * one.num_sequences for one in found.shares) == wanted
    for one in types:
        own = [share for share in found.shares if share.device == one.name]
        assert sum(share.num_ranks for share in own) == one.number
        for share in own:
            assert max(share.passes, default=0) <= len(one.pass_seconds)
            assert isclose(share.seconds, sum(one.pass_seconds[size - 1] for size in share.passes if size))
    assert isclose(found.eta, wanted / (found.seconds * sum_of_rates(types))) and found.eta <= 1 + 1e-9


@settings(max_examples=200, deadline=None)
@given(devices(), st.integers(1, 9))
def test_with_one_reduction_a_step_takes_the_least_time_there_is(types: list[DeviceType], wanted: int) -> None:
    found = allocate_bottleneck(types, wanted)
    check(found, types, wanted)
    assert isclose(found.seconds, least_bottleneck(types, wanted)) and found.bound == found.seconds
    assert found.seconds == max(share.seconds for share in found.shares)


@settings(max_examples=200, deadline=None)
@given(devices(), st.integers(1, 9), st.sampled_from([0.0, 0.75, 2.0]), st.booleans())
def test_with_collectives_in_every_pass_a_step_takes_the_least_time_there_is(
    types: list[DeviceType], wanted: int, cost: float, overlaps: bool
) -> None:
    found = allocate_cover(types, wanted, pass_seconds=cost, overlaps=overlaps)
    check(found, types, wanted)
    assert isclose(found.seconds, least_cover(types, wanted, cost, overlaps=overlaps)) and found.bound == found.seconds
    (number,) = {len(share.passes) for share in found.shares}
    by_type = {one.name: one for one in types}
    total = 0.0
    for place in range(number):
        sizes = [(by_type[share.device], share.passes[place]) for share in found.shares]
        slowest = max((one.pass_seconds[size - 1] for one, size in sizes if size), default=0.0)
        total += max(slowest, cost) if overlaps else slowest + cost
    assert total <= found.seconds + 1e-9


def mix(numbers: Sequence[int]) -> list[DeviceType]:
    """Types with the speeds of an H100, an A100, an L40S and a V100, at 4,096 tokens a sequence, and the same again."""
    speeds = [(9000, 8), (4000, 8), (2200, 4), (1100, 2)] * 2
    return [
        DeviceType(f"type-{place}", number, tuple(0.05 + 4096 * size / speed for size in range(1, most + 1)))
        for place, (number, (speed, most)) in enumerate(zip(numbers, speeds, strict=False))
    ]


def test_four_types_reach_what_the_mission_asks_for() -> None:
    types = mix((64, 32, 16, 16))
    assert allocate_bottleneck(types, 16 * 128).eta > 0.965
    assert allocate_cover(types, 16 * 128, pass_seconds=0.3).eta > 0.93
    even = 16 * 128 / (sum_of_rates(types) * max(8 * one.pass_seconds[1] for one in types))
    assert even < 0.25


@pytest.mark.parametrize("numbers", [(40009, 20011, 10007, 10009, 5003, 5009, 5011, 4957), (12_500,) * 8])
def test_a_hundred_thousand_devices(numbers: Sequence[int]) -> None:
    types = mix(numbers)
    wanted = 16 * sum(numbers) + 1
    check(allocate_bottleneck(types, wanted), types, wanted)
    found = allocate_cover(types, wanted, pass_seconds=0.3)
    check(found, types, wanted)
    assert found.bound <= found.seconds <= 1.003 * found.bound


@settings(max_examples=100, deadline=None)
@given(
    devices(),
    st.one_of(st.integers(1, 40), st.integers(500, 3000)),
    st.integers(1, 16),
    st.sampled_from([0.0, 0.75, 2.0]),
    st.booleans(),
)
def test_above_what_is_solved_exactly_the_least_time_is_between_the_bound_and_what_is_found(
    types: list[DeviceType], wanted: int, exact: int, cost: float, overlaps: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover, "EXACT_SEQUENCES", exact)
        found = allocate_cover(types, wanted, pass_seconds=cost, overlaps=overlaps)
    check(found, types, wanted)
    least = least_cover(types, wanted, cost, overlaps=overlaps)
    assert found.bound <= least * (1 + 1e-9) and least <= found.seconds * (1 + 1e-9)
    assert found.bound <= found.seconds <= 1.003 * found.bound
    if wanted >= 500 * exact:  # nearly all of it is done in bulk
        assert found.seconds <= 1.003 * least


@pytest.mark.parametrize("exact", [16, 1024, 1 << 18])
def test_many_sequences_on_few_devices(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    types = [DeviceType("a", 1, (1.0,)), DeviceType("b", 9, (0.001, 0.002, 0.003))]
    reduce, calls = cover._reduced, list[int]()

    def reduced(
        groups: list[tuple[int, list[int]]], number: int, surplus: int
    ) -> tuple[list[tuple[int, list[int]]], int]:
        calls.append(number)
        return reduce(groups, number, surplus)

    monkeypatch.setattr(cover, "_reduced", reduced)
    monkeypatch.setattr(cover, "EXACT_SEQUENCES", exact)
    found = allocate_cover(types, 2_000_003)
    check(found, types, 2_000_003)
    assert found.bound <= found.seconds <= 1.00001 * found.bound
    assert {len(share.passes) for share in found.shares} == {
        74_075
    }  # 74,074 of 27, which leave 5: the fewest there are
    assert len(calls) <= len(types)  # passes of which nothing is taken are not gone through


@pytest.mark.parametrize(
    ("types", "wanted", "seconds"),
    [
        ([DeviceType("a", 1_000_003, (1.0, 2.5)), DeviceType("b", 1, (0.9,))], 2_000_006, 2.0),
        ([DeviceType("a", 1_000_003, (1.0,)), DeviceType("b", 10, (0.0001,))], 1_000_103, 1.0009),
        ([DeviceType("a", 400_009, (1.0, 3.0)), DeviceType("b", 200_003, (1.1,))], 1_000_021, 2.1),
    ],
)
def test_passes_that_just_reach_all_sequences_are_found(types: list[DeviceType], wanted: int, seconds: float) -> None:
    found = allocate_cover(types, wanted)
    check(found, types, wanted)
    assert isclose(found.seconds, seconds) and found.bound <= found.seconds <= 1.003 * found.bound


def test_times_that_were_measured_are_made_to_never_fall() -> None:
    assert make_monotone([1, 2, 3]) == [1, 2, 3]
    assert make_monotone([2, 1, 3]) == [1.5, 1.5, 3]
    assert make_monotone([3, 2, 1]) == [2, 2, 2]
    assert make_monotone([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 10), max_size=12))
def test_monotone_times_are_the_closest(values: list[float]) -> None:
    found = make_monotone(values)
    assert all(before <= after + 1e-12 for before, after in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))

    def far(other: Sequence[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(values, other, strict=True))

    assert far(found) <= far(sorted(values)) + 1e-9
    assert make_monotone(found) == pytest.approx(found)


@pytest.mark.parametrize(
    ("number", "times", "told"),
    [
        (0, (1.0,), "give one or more"),
        (1, (), "give one or more"),
        (1, (2.0, 1.0), "never fall"),
        (1, (0.0,), "above 0"),
    ],
)
def test_what_is_no_type_of_devices_is_refused(number: int, times: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DeviceType("odd", number, times)


def test_nothing_to_share_is_refused() -> None:
    for allocate in (allocate_bottleneck, allocate_cover):
        with pytest.raises(ValueError, match="one or more of each"):
            allocate([], 4)
        with pytest.raises(ValueError, match="one or more of each"):
            allocate([DeviceType("a", 1, (1.0,))], 0)
