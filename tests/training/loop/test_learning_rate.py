"""The learning rate over the steps."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.training.optimizer import CosineSchedule, Schedule, WsdSchedule
from tests.training.ranks import tiny_config
from training.loop.learning_rate import learning_rate_factor


def factors(schedule: Schedule, num_steps: int, **changes: Any) -> list[float]:
    config = tiny_config(schedule=schedule.model_dump(), num_steps=num_steps, **changes)
    return [learning_rate_factor(config, step) for step in range(num_steps)]


def test_cosine_rises_to_the_peak_and_falls_to_the_floor() -> None:
    schedule = CosineSchedule(kind="cosine", num_warmup_steps=4, floor=0.2)
    rates = factors(schedule, 104)
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates[54] == pytest.approx(0.6)  # half-way
    assert rates[29] == pytest.approx(0.2 + 0.8 * (1 + 2**-0.5) / 2)  # a quarter
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)
    config = tiny_config(schedule=schedule.model_dump(), num_steps=104)
    assert learning_rate_factor(config, 104) == pytest.approx(0.2)


def test_wsd_stays_at_the_peak_until_a_linear_decay() -> None:
    rates = factors(WsdSchedule(kind="wsd", num_warmup_steps=2, num_decay_steps=4, floor=0.5), 12)
    assert rates[:8] == pytest.approx([0.5, *[1] * 7])
    assert rates[8:] == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_wsd_of_another_length_is_the_same_until_the_decay() -> None:
    schedule = WsdSchedule(kind="wsd", num_warmup_steps=2, num_decay_steps=4)
    assert factors(schedule, 20)[:16] == factors(schedule, 40)[:16]
    assert factors(schedule, 20)[-4:] == factors(schedule, 40)[-4:]


def test_no_warmup_begins_at_the_peak() -> None:
    assert factors(CosineSchedule(kind="cosine", num_warmup_steps=0), 10)[0] == 1
    assert factors(WsdSchedule(kind="wsd", num_warmup_steps=0, num_decay_steps=0), 3) == [1, 1, 1]


def test_a_ramp_of_the_batch_goes_through_the_schedule_by_samples() -> None:
    """Two sequences a step, then four, six, eight: the rate of each step is that of the whole batches read before."""
    ramp = {"start": 2, "increment": 2, "steps_per_increment": 4}
    for schedule in (
        CosineSchedule(kind="cosine", num_warmup_steps=0, floor=0.1),
        WsdSchedule(kind="wsd", num_warmup_steps=0, num_decay_steps=6),
    ):
        ramped = factors(schedule, 24, global_batch_size=8, batch_ramp=ramp)
        samples = [2 * 4, 4 * 4, 6 * 4]
        whole = sum(samples) // 8  # six whole batches in the first twelve steps
        assert ramped[12:] == pytest.approx(factors(schedule, whole + 12, global_batch_size=8)[whole:])
        assert ramped[4] == pytest.approx(factors(schedule, whole + 12, global_batch_size=8)[1])


def test_warm_up_by_samples_reaches_the_peak_with_the_last_of_them() -> None:
    schedule = CosineSchedule(kind="cosine", num_warmup_steps=2)
    ramp = {"start": 1, "increment": 3, "steps_per_increment": 4}
    rates = factors(schedule, 40, global_batch_size=4, batch_ramp=ramp)
    assert rates[:5] == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8, 1])


schedules = st.one_of(
    st.builds(CosineSchedule, kind=st.just("cosine"), num_warmup_steps=st.integers(0, 30), floor=st.floats(0, 1)),
    st.builds(
        WsdSchedule,
        kind=st.just("wsd"),
        num_warmup_steps=st.integers(0, 30),
        num_decay_steps=st.integers(0, 30),
        floor=st.floats(0, 1),
    ),
)


@given(schedules, st.integers(60, 100))
@settings(deadline=None)
def test_rates_rise_once_fall_once_and_stay_between_floor_and_peak(schedule: Schedule, num_steps: int) -> None:
    rates = factors(schedule, num_steps)
    warm = schedule.num_warmup_steps
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert max(rates) == pytest.approx(1)
    assert min(rates[warm:]) >= schedule.floor - 1e-12
    assert min(rates) > 0 or schedule.floor == 0
