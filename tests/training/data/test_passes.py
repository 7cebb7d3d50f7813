"""Passes: whatever their sizes, each sample of a step is computed once, and in the order of the batch."""

from concurrent.futures import ThreadPoolExecutor
from math import ceil
from threading import Event

import numpy as np
import pytest

from training.data.passes import PassPlan, Plans, even_plan, make_plan

UNEVEN = [
    [[3, 1], [2], [4, 4, 1]],
    [[0, 2], [5, 0], [1, 1]],
    [[7], [], [1]],
    [[1, 2, 3]],
]


def all_rows(plan: PassPlan) -> list[list[list[int]]]:
    return [[rows.tolist() for rows in plan.rows(rank)] for rank in range(len(plan.sizes))]


@pytest.mark.parametrize("passes", UNEVEN)
@pytest.mark.parametrize("equal_passes", [False, True])
def test_each_sample_is_computed_once_and_in_no_later_pass_than_one_after_it(passes, equal_passes):
    plan = make_plan(passes, equal_passes=equal_passes)
    rows = all_rows(plan)
    pass_of = {sample: number for own in rows for number, some in enumerate(own) for sample in some}
    assert sorted(pass_of) == list(range(sum(map(sum, passes)))) == list(range(plan.num_samples))
    assert [pass_of[sample] for sample in sorted(pass_of)] == sorted(pass_of.values())
    for rank, own in enumerate(rows):
        assert [len(some) for some in own] == plan.sizes[rank, : plan.num_passes(rank)].tolist()
        samples = [sample for some in own for sample in some]
        assert samples == sorted(samples)


def test_ranks_run_as_many_passes_only_where_these_have_collectives():
    assert [make_plan(UNEVEN[0], equal_passes=False).num_passes(rank) for rank in range(3)] == [2, 1, 3]
    assert [make_plan(UNEVEN[0], equal_passes=True).num_passes(rank) for rank in range(3)] == [3, 3, 3]
    assert make_plan(UNEVEN[2], equal_passes=False).num_passes(1) == 1, "it has gradients to exchange"


@pytest.mark.parametrize("passes", UNEVEN)
def test_gathered_rows_come_in_the_order_of_the_batch(passes):
    plan = make_plan(passes, equal_passes=True)
    start = 0
    for number in range(plan.sizes.shape[1]):
        places = np.full(len(passes) * plan.max_rows, -1)
        for rank in range(len(passes)):
            for row, sample in enumerate(plan.rows(rank)[number]):
                places[rank * plan.max_rows + row] = sample
        in_order = places[plan.order(number)].tolist()
        assert in_order == list(range(start, start + len(in_order)))
        start += len(in_order)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("num_samples", [1, 5, 8, 24])
def test_evenly_sample_i_is_that_of_rank_i_modulo_their_number(world_size, size, num_samples):
    plan = even_plan(num_samples, world_size, size=size)
    for rank, own in enumerate(all_rows(plan)):
        assert [sample for some in own for sample in some] == list(range(rank, num_samples, world_size))
        assert all(len(some) <= size for some in own)
    assert plan.sizes.sum(1).max() - plan.sizes.sum(1).min() <= 1
    assert {plan.num_passes(rank) for rank in range(world_size)} == {ceil(ceil(num_samples / world_size) / size)}


def test_plans_that_differ_have_other_digests_which_a_float_holds():
    plans = [make_plan(passes, equal_passes=equal) for passes in UNEVEN for equal in (False, True)]
    digests = {plan.digest for plan in plans}
    assert len(digests) == len(plans)
    assert all(int(float(digest)) == digest for digest in digests)
    assert make_plan(UNEVEN[0], equal_passes=True).digest == plans[1].digest


def test_threads_that_ask_at_once_get_one_plan():
    made = []

    def make(num_samples):
        never.wait(0.05)  # so that the others ask meanwhile
        made.append(num_samples)
        return even_plan(num_samples, 2, size=2)

    never, plans = Event(), Plans(make)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(plans, [8] * 4))
    assert len({id(plan) for plan in found}) == 1 and made == [8]
