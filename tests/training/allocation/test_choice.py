"""Which of unlike devices train together: the fastest of all there is, against every set, and what is left out."""

from collections.abc import Sequence
from itertools import combinations
from math import inf, isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.allocation.test_allocation import devices, least_bottleneck, least_cover, mix
from training.allocation.choice import (
    ALL_SUBSETS,
    WORTH_LEAVING_OUT,
    Candidate,
    Members,
    allocate,
    allocate_evenly,
    choose_allocation,
    fastest_option,
    least_seconds,
    sets_of_types,
)
from training.allocation.devices import DeviceType

COSTS = st.sampled_from([0.0, 0.3, 2.0])


@st.composite
def trials(draw: st.DrawFn) -> tuple[list[DeviceType], dict[Members, list[Candidate]]]:
    """Types of devices, and for each set of them candidates: none where they cannot train together."""
    types = draw(devices())
    found: dict[Members, list[Candidate]] = {}
    for members in sets_of_types([one.rate for one in types]):
        stages = draw(st.lists(st.sampled_from([1, 2, 3]), max_size=3))
        found[members] = [
            Candidate(
                members,
                tuple(types[place] for place in members),
                stage,
                step_seconds=draw(COSTS),
                pass_seconds=draw(COSTS),
                overlaps=draw(st.booleans()),
            )
            for stage in stages
        ]
    return types, found


def brute_force(one: Candidate, wanted: int) -> float:
    if one.zero_stage == 1:
        return least_bottleneck(one.devices, wanted) + one.step_seconds
    return least_cover(one.devices, wanted, one.pass_seconds, overlaps=one.overlaps) + one.step_seconds


@settings(max_examples=150, deadline=None)
@given(trials(), st.integers(1, 7))
def test_the_choice_is_the_fastest_but_for_devices_that_cost_next_to_nothing(
    trial: tuple[list[DeviceType], dict[Members, list[Candidate]]], wanted: int
) -> None:
    _, by_members = trial
    times = [(brute_force(one, wanted), one) for some in by_members.values() for one in some]
    found = choose_allocation(list(by_members), lambda members: by_members[members], wanted)
    if not times:
        assert found is None
        return
    assert found is not None
    fastest = min(seconds for seconds, _ in times)
    alone = min((seconds for seconds, one in times if len(one.members) == 1), default=inf)
    limit = min(fastest * (1 + WORTH_LEAVING_OUT), alone) + 1e-9
    assert found.chosen.seconds <= limit
    assert isclose(found.chosen.seconds, brute_force(found.chosen.candidate, wanted))
    assert found.chosen.candidate.num_ranks == max(one.num_ranks for seconds, one in times if seconds <= limit)
    others = [seconds for seconds, one in times if one.members != found.chosen.candidate.members]
    if others:
        assert found.runner_up is not None and isclose(found.runner_up.seconds, min(others))
    for seconds, one in times:
        assert least_seconds(one, wanted) <= seconds + 1e-9


def two_types(slow: float, step_seconds: float) -> dict[Members, Candidate]:
    """Eight fast devices and one slow type, whose part costs `step_seconds` of each step."""
    types = [DeviceType("fast", 8, (1.0,)), DeviceType("slow", 8, (slow,))]
    return {
        members: Candidate(
            members, tuple(types[place] for place in members), 1, step_seconds=step_seconds if 1 in members else 0.0
        )
        for members in sets_of_types([1.0, 1 / slow])
    }


def chosen_of(candidates: dict[Members, Candidate], wanted: int) -> Members:
    found = choose_allocation(list(candidates), lambda members: [candidates[members]], wanted)
    assert found is not None
    return found.chosen.candidate.members


def test_slow_devices_are_left_out_where_they_slow_the_job() -> None:
    assert chosen_of(two_types(4.0, 0.5), 80) == (0, 1)  # 8 s and a half, against 10 s
    assert chosen_of(two_types(4.0, 3.0), 80) == (0,)


def test_devices_that_make_nothing_faster_stay_in() -> None:
    assert chosen_of(two_types(100.0, 0.0), 80) == (0, 1)
    assert chosen_of(two_types(100.0, 0.05), 80) == (0,)  # within a hundredth, but slower than one type alone


def test_the_lowest_of_stages_that_are_as_fast_is_taken() -> None:
    types = (DeviceType("a", 2, (1.0, 2.0)), DeviceType("b", 2, (1.0, 2.0)))
    stages = [Candidate((0, 1), types, stage, step_seconds=0.001 * (3 - stage)) for stage in (3, 2, 1)]
    found = choose_allocation([(0, 1)], lambda members: stages, 40)
    assert found is not None and found.chosen.candidate.zero_stage == 1
    assert found.runner_up is not None and found.runner_up.candidate.zero_stage == 3


def test_one_reduction_a_step_lets_ranks_have_unlike_numbers_of_passes() -> None:
    types = (DeviceType("fast", 1, (1.0,)), DeviceType("slow", 1, (2.0,)))
    assert isclose(allocate(Candidate((0, 1), types, 2), 6).seconds, 6.0)
    assert allocate(Candidate((0, 1), types, 1), 6).seconds == 4.0
    assert fastest_option([], 6) is None


@pytest.mark.parametrize("number", [1, 3, ALL_SUBSETS])
def test_up_to_eight_types_every_set_is_tried(number: int) -> None:
    sets = list(sets_of_types([1.0] * number))
    every = {members for size in range(1, number + 1) for members in combinations(range(number), size)}
    assert set(sets) == every and len(sets) == len(every) and sets[0] == tuple(range(number))


def test_of_more_types_the_fastest_are_tried_and_each_alone() -> None:
    rates = [3.0, 9.0, 1.0, 8.0, 7.0, 6.0, 5.0, 4.0, 2.0]
    sets = list(sets_of_types(rates))
    assert sets[0] == tuple(range(9)) and (1, 3) in sets and (0, 1) not in sets
    assert {(place,) for place in range(9)} <= set(sets) and len(sets) == 17


def every_candidate(types: Sequence[DeviceType], members: Members) -> list[Candidate]:
    own = tuple(types[place] for place in members)
    return [Candidate(members, own, 1), Candidate(members, own, 3, pass_seconds=0.3)]


def test_eight_types_are_chosen_from_in_seconds() -> None:
    types = mix((40, 20, 10, 10, 5, 5, 5, 5))
    found = choose_allocation(
        list(sets_of_types([one.rate for one in types])), lambda members: every_candidate(types, members), 16 * 100
    )
    assert found is not None and found.chosen.candidate.members == tuple(range(8)) and found.chosen.eta > 0.96


@pytest.mark.parametrize("stage", [1, 3])
def test_of_ways_that_take_as_long_the_one_with_the_fewest_passes_is_taken(stage: int) -> None:
    linear = DeviceType("emulated", 1, tuple(0.1 * size for size in range(1, 9)))
    (share,) = allocate(Candidate((0,), (linear,), stage), 410).allocation.shares
    assert len(share.passes) == 52


@pytest.mark.parametrize(("stage", "seconds"), [(1, 7.0), (3, 8.0)])
def test_an_even_share_waits_for_the_slowest(stage: int, seconds: float) -> None:
    types = (DeviceType("fast", 2, (1.0, 2.0, 3.0)), DeviceType("slow", 3, (2.0, 4.0, 6.0)))
    one = Candidate((0, 1), types, stage, step_seconds=1.0, pass_seconds=0.5, overlaps=False)
    found = allocate_evenly(one, 17, most=3)  # 4 for the first two, 3 for the others
    assert [(share.num_ranks, share.passes) for share in found.allocation.shares] == [(2, (2, 2)), (3, (2, 1))]
    assert isclose(found.seconds, seconds)
