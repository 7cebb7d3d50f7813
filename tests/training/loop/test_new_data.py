"""A training that goes on with other data: weights and moments are kept, the order is new."""

import signal
from dataclasses import replace

import numpy as np
import pytest

from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, put_together, state_held, state_on_disk, train_all, train_and_die, trajectory
from training.checkpoint.directory import read_record
from training.job import Job
from training.loop.learning_rate import learning_rate_factor

STEPS = 4
OTHER = {"phases": [{"source_weights": {"web": 3, "science": 1}, "budget_tokens": 160}, {"temperature": 3}]}
"""A mixture whose second phase begins after two steps."""


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Job:
    job = tiny_job(tmp_path_factory.mktemp("before"), tiny_config(num_steps=STEPS), world_size=2, zero_stage=1)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    return job


def after(directory, before: Job, *, stage: int = 1, **init) -> Job:
    start = {"path": str(before.out / f"checkpoints/step-{STEPS:08d}"), "mode": "new_data"} | init
    num_steps = 2 * STEPS if init.get("schedule") == "continued" else STEPS
    config = tiny_config(num_steps=num_steps, init_from=start, mixture=OTHER, seed=7)
    return tiny_job(directory, config, world_size=2, zero_stage=stage)


@pytest.mark.parametrize("stage", [1, 3])
def test_the_optimizer_is_kept_and_the_order_is_new(tmp_path, before, stage):
    job = after(tmp_path, before, stage=stage)
    held = put_together([piece for pieces in run_ranks(state_held, 2, job) for piece in pieces])
    saved = state_on_disk(before.out / f"checkpoints/step-{STEPS:08d}")
    assert held.keys() == saved.keys() >= {"master", "exp_avg", "exp_avg_sq"}
    for kind, parameters in saved.items():
        for name, values in parameters.items():
            np.testing.assert_array_equal(held[kind][name], values)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    last = read_record(job.out / f"checkpoints/step-{STEPS:08d}")
    assert (last.step, last.num_updates, last.num_skipped) == (STEPS, 2 * STEPS, 0)
    assert last.position.next_place == STEPS * 5, "from the first sample"
    assert len(last.order.phases) == 2 and last.order.seed == 7
    assert lines(job)[0].learning_rate == pytest.approx(0.01 * learning_rate_factor(job.config, 0)), "warmed up anew"


def test_the_step_count_and_the_schedule_go_on_if_the_recipe_says_so(tmp_path, before):
    job = after(tmp_path, before, schedule="continued")
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert [line.step for line in lines(job)] == [5, 6, 7, 8]
    assert [line.learning_rate for line in lines(job)] == pytest.approx(
        [0.01 * learning_rate_factor(job.config, step) for step in range(4, 8)]
    )
    assert [line.first_place for line in lines(job)] == [0, 5, 10, 15]
    assert read_record(job.out / "checkpoints/step-00000008").num_updates == 8


def test_killed_in_the_middle_it_resumes_bit_for_bit(tmp_path, before):
    calm, killed = after(tmp_path / "calm", before), after(tmp_path / "killed", before)
    assert run_ranks(train_all, 2, [calm]) == [None, None]
    assert run_ranks(train_and_die, 2, killed, 3)[1] == -signal.SIGKILL
    assert run_ranks(train_all, 2, [killed]) == [None, None]
    assert trajectory(killed) == trajectory(calm)
    states = [state_on_disk(job.out / f"checkpoints/step-{STEPS:08d}") for job in (calm, killed)]
    for kind, parameters in states[0].items():
        for name, values in parameters.items():
            np.testing.assert_array_equal(states[1][kind][name], values)


def test_an_average_begins_at_the_weights_if_the_training_before_kept_none(tmp_path, before):
    job = after(tmp_path, before)
    config = job.config.model_copy(update={"ema": tiny_config(ema={}).ema})
    held = put_together([piece for pieces in run_ranks(state_held, 2, replace(job, config=config)) for piece in pieces])
    for name, values in held["master"].items():
        np.testing.assert_array_equal(held["ema"][name], values)
