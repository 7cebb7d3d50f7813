"""A batch that grows over the first steps."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.training.optimizer import BatchRampConfig
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, state_on_disk, train_all, train_and_die, trajectory
from training.checkpoint.directory import read_record

RAMP = {"start": 2, "increment": 2, "steps_per_increment": 2}
SIZES = [2, 2, 4, 4, 5, 5, 5]


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 9), st.integers(2, 64), st.integers(0, 120))
def test_the_samples_before_a_step_are_the_sum_of_the_sizes(
    start: int, increment: int, steps: int, full: int, step: int
) -> None:
    ramp = BatchRampConfig(start=min(start, full - 1), increment=increment, steps_per_increment=steps)
    sizes = [ramp.batch_size_at(number, full=full) for number in range(step)]
    assert sizes == sorted(sizes)
    assert ramp.samples_before(step, full=full) == sum(sizes)


def test_each_step_reads_the_samples_of_its_size_killed_or_not(tmp_path):
    config = tiny_config(batch_ramp=RAMP, num_steps=len(SIZES), schedule={"kind": "cosine", "num_warmup_steps": 1})
    calm, killed = (tiny_job(tmp_path, config, world_size=2, zero_stage=1, name=name) for name in ("calm", "killed"))
    assert run_ranks(train_all, 2, [calm]) == [None, None]
    assert [line.first_place for line in lines(calm)] == [sum(SIZES[:step]) for step in range(len(SIZES))]
    record = read_record(calm.out / f"checkpoints/step-{len(SIZES):08d}")
    assert record.position.next_place == sum(SIZES) == record.samples_before(record.step)
    assert run_ranks(train_and_die, 2, killed, 5)[1] == -signal.SIGKILL
    assert run_ranks(train_all, 2, [killed]) == [None, None]
    assert trajectory(killed) == trajectory(calm)
    states = [state_on_disk(job.out / f"checkpoints/step-{len(SIZES):08d}") for job in (calm, killed)]
    assert all((states[0][kind][name] == states[1][kind][name]).all() for kind in states[0] for name in states[0][kind])


def test_a_ramp_that_starts_with_the_whole_batch_is_refused():
    with pytest.raises(ValueError, match=r"batch_ramp\.start is 5, and it is to grow to global_batch_size, 5"):
        tiny_config(batch_ramp=RAMP | {"start": 5})


def test_the_schedule_must_fit_into_the_whole_batches():
    schedule = {"kind": "cosine", "num_warmup_steps": 6}
    assert tiny_config(schedule=schedule, num_steps=7).num_steps == 7
    with pytest.raises(ValueError, match=r"longer than num_steps \(steps: 7, or 5.4 whole batches\)"):
        tiny_config(schedule=schedule, num_steps=7, batch_ramp=RAMP)
