"""Balancing: shares follow how fast ranks are, and change when that is clearly worth it."""

from typing import Any

import numpy as np
import pytest

from training.allocation.balance import COOL_DOWN_STEPS, WINDOW_STEPS, Balancer, Sharing, describe_sharing
from training.speeds import DeviceSpeed, Speeds


def speeds(*seconds: float, limit: int = 8, slowdown: tuple[float, ...] = (), communication: float = 0.0) -> Speeds:
    """A rank of each type, which takes so many seconds a sequence."""
    devices = [
        DeviceSpeed(
            kind=f"kind {number}",
            device="cpu",
            pass_seconds=tuple(one * b for b in range(1, limit + 1)),
            empty_seconds=one / 100,
        )
        for number, one in enumerate(seconds)
    ]
    return Speeds(
        version=1,
        step=0,
        why="measured",
        devices=tuple(devices),
        device_of_rank=tuple(range(len(seconds))),
        slowdown=slowdown or (1.0,) * len(seconds),
        pass_communication=communication,
    )


def balancer(sharing: Sharing, *, world_size: int = 4) -> Balancer:
    return Balancer(world_size=world_size, micro_batch_size=2, sharing=sharing)


UNLIKE = speeds(0.03, 0.03, 0.06, 0.12)


@pytest.mark.parametrize(("equal_passes", "eta"), [(False, 0.97), (True, 0.9)])
def test_ranks_take_in_proportion_to_their_speed(equal_passes, eta):
    sharing = Sharing(UNLIKE, equal_passes=equal_passes, overlaps=False)
    plan = sharing.plan(66)
    assert plan.num_samples == 66
    shares = plan.sizes.sum(1)
    assert shares[0] == pytest.approx(2 * shares[2], abs=2) and shares[2] == pytest.approx(2 * shares[3], abs=2)
    assert 66 / (sharing.step_seconds(plan) * sharing.sum_of_rates) > eta
    assert plan.max_rows <= 8
    assert plan.equal_passes is equal_passes


def test_ranks_that_are_equally_fast_are_one_type():
    many = Speeds(
        version=1,
        step=0,
        why="",
        devices=UNLIKE.devices[:2],
        device_of_rank=(0, 1, 0, 1, 0),
        slowdown=(1.0, 1.0, 1.0, 2.0, 1.0),
    )
    sharing = Sharing(many, equal_passes=False, overlaps=False)
    assert [(one.number, ranks) for one, ranks in sharing.groups] == [(3, [0, 2, 4]), (1, [1]), (1, [3])]
    shares = sharing.plan(27).sizes.sum(1)
    assert shares.sum() == 27 and shares[3] == 3 and shares[1] == 6


def run(one: Balancer, true: Sharing, *, steps: int, noise: Any = 0.0, overhead: float = 0.01, seed: int = 0) -> list:
    """Have steps take what `true` says of the ranks; the steps at which the sharing changed."""
    random, changes, before = np.random.default_rng(seed), [], np.zeros(4)
    for step in range(1, steps + 1):
        plan = one.plans(60)
        assert plan.num_samples == 60
        taken = true.pass_seconds(plan).sum(1) * (1 + noise * random.standard_normal(4))
        found = one.add_step(plan, step=step, seconds_before=before.tolist(), step_seconds=taken.max() + overhead)
        before = taken
        if found is not None:
            words = one.adopt(found, 60)
            assert f"version {found.version}" in words
            changes.append(step)
            before = np.zeros(4)
    return changes


def test_a_rank_that_slows_down_gets_less_after_the_window_and_not_before():
    sharing = Sharing(UNLIKE, equal_passes=False, overlaps=False)
    slowed = Sharing(speeds(0.03, 0.06, 0.06, 0.12), equal_passes=False, overlaps=False)
    one = balancer(sharing)
    before = one.plans(60).sizes.sum(1)
    (changed,) = run(one, slowed, steps=100)
    assert 2 * WINDOW_STEPS <= changed <= COOL_DOWN_STEPS + WINDOW_STEPS
    after = one.plans(60).sizes.sum(1)
    assert after[1] == pytest.approx(before[1] / 2 * 1.25, abs=2) and after.sum() == before.sum() == 60
    assert one.sharing is not None and one.sharing.speeds.version == 2
    assert one.sharing.speeds.slowdown[1] == pytest.approx(2.0, rel=0.02)
    assert slowed.step_seconds(one.plans(60)) < 0.75 * slowed.step_seconds(sharing.plan(60))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
def test_noise_alone_changes_nothing(noise):
    sharing = Sharing(UNLIKE, equal_passes=False, overlaps=False)
    changes = [run(balancer(sharing), sharing, steps=400, noise=noise, seed=seed) for seed in range(40)]
    assert sum(map(len, changes)) <= 1, "of 1,560 looks"


def test_a_rank_that_is_far_noisier_than_the_others_is_no_reason_to_change():
    sharing = Sharing(UNLIKE, equal_passes=False, overlaps=False)
    noise = np.array([0.3, 0.01, 0.01, 0.01])
    changes = [run(balancer(sharing), sharing, steps=400, noise=noise, seed=seed) for seed in range(10)]
    assert sum(map(len, changes)) <= 2, "of 390 looks"


@pytest.mark.parametrize("equal_passes", [False, True])
def test_a_rank_that_was_too_slow_for_any_share_gets_one_when_it_has_recovered(equal_passes):
    sharing = Sharing(UNLIKE, equal_passes=equal_passes, overlaps=False)
    slowed = Sharing(speeds(0.03, 3.0, 0.06, 0.12), equal_passes=equal_passes, overlaps=False)
    one, share = balancer(sharing), sharing.plan(60).sizes.sum(1)[1]
    run(one, slowed, steps=60)
    plan = one.plans(60)
    assert plan.sizes[1].sum() == 0
    one.forget_step()
    one.add_step(plan, step=61, seconds_before=[0.0] * 4, step_seconds=1.0)
    seen = one.slowdown(slowed.pass_seconds(plan).sum(1).tolist())
    assert seen is not None and seen[1] == pytest.approx(100, rel=0.02), "its empty pass tells"
    run(one, sharing, steps=60)
    assert one.plans(60).sizes[1].sum() == pytest.approx(share, abs=2)


def test_a_gain_below_two_percent_of_the_whole_step_is_left_alone():
    sharing = Sharing(UNLIKE, equal_passes=False, overlaps=False)
    slowed = Sharing(speeds(0.03, 0.06, 0.06, 0.12), equal_passes=False, overlaps=False)
    assert run(balancer(sharing), slowed, steps=100, overhead=100.0) == []


def test_without_speeds_shares_are_even_and_stay_so():
    one = Balancer(world_size=4, micro_batch_size=2, sharing=None)
    plan = one.plans(10)
    assert plan.sizes.sum(1).tolist() == [3, 3, 2, 2]
    assert one.sum_of_rates([0.0] * 4) is None
    for step in range(100):
        assert one.add_step(plan, step=step, seconds_before=[1, 1, 1, 9], step_seconds=9.0) is None
    assert one.sum_of_rates([1.0, 1.0, 1.0, 2.0]) == pytest.approx(3 + 3 + 2 + 1)


def test_own_rates_are_those_of_the_moment():
    one = balancer(Sharing(UNLIKE, equal_passes=False, overlaps=False))
    plan = one.plans(60)
    one.add_step(plan, step=1, seconds_before=[0.0] * 4, step_seconds=1.0)
    expected = one.sharing.pass_seconds(plan).sum(1)
    rates = [1 / 0.03, 1 / 0.03, 1 / 0.06, 1 / 0.12]
    assert one.sum_of_rates(expected.tolist()) == pytest.approx(sum(rates))
    assert one.sum_of_rates((expected * [1, 2, 1, 1]).tolist()) == pytest.approx(sum(rates) - rates[1] / 2)


def test_the_sharing_is_said_in_words():
    sharing = Sharing(UNLIKE, equal_passes=False, overlaps=False)
    words = describe_sharing(sharing, 11)
    assert words.startswith("kind 0: 1 rank with 4 sequences; kind 1: 1 rank with 4 sequences; kind 2: 1 rank with")
    assert "eta 0." in words or "eta 1.0" in words


@pytest.mark.parametrize("equal_passes", [False, True])
def test_ten_thousand_noisy_ranks_of_which_some_are_slow_are_shared_well(equal_passes):
    random = np.random.default_rng(0)
    slow = np.where(random.random(10_000) < 0.01, 2.0, 1.0)
    kinds = random.integers(0, 4, size=10_000).tolist()
    many = speeds(0.03, 0.06, 0.09, 0.12).model_copy(
        update={"device_of_rank": tuple(kinds), "slowdown": (1.0,) * 10_000}
    )
    one = balancer(Sharing(many, equal_passes=equal_passes, overlaps=True), world_size=10_000)
    true = Sharing(many.model_copy(update={"slowdown": tuple(slow.tolist())}), equal_passes, overlaps=True)
    before, changes = np.zeros(10_000), 0
    for step in range(1, 62):
        plan = one.plans(160_000)
        taken = true.pass_seconds(plan).sum(1) * (1 + 0.02 * random.standard_normal(10_000))
        found = one.add_step(plan, step=step, seconds_before=before.tolist(), step_seconds=float(taken.max()))
        before = taken
        if found is not None:
            one.adopt(found, 160_000)
            before, changes = np.zeros(10_000), changes + 1
    assert changes == 1
    plan = one.plans(160_000)
    assert 160_000 / (true.step_seconds(plan) * true.sum_of_rates) > (0.85 if equal_passes else 0.9)


def test_a_rank_is_compared_with_its_type_whatever_it_was_given_less_for():
    slowed = Sharing(speeds(0.03, 0.03, 0.06, 0.12, slowdown=(1.0, 2.0, 1.0, 1.0)), equal_passes=False, overlaps=False)
    one = balancer(slowed)
    assert one.slowdown([1.0] * 4) is None, "no step was taken down"
    plan = one.plans(60)
    one.add_step(plan, step=1, seconds_before=[0.0] * 4, step_seconds=1.0)
    assert one.slowdown(slowed.pass_seconds(plan).sum(1).tolist()) == pytest.approx([1, 2, 1, 1])
    assert one.slowdown([0.0] * 4) is None
