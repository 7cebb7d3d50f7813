"""A run that minds itself: numbers that are not finite, spikes, hangs, a full disk."""

import errno
import shutil
import socket
from dataclasses import replace

import pytest

from tests.training.loop.test_elastic import OFFLOADS
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import (
    fail_on_a_full_disk,
    lines,
    train_all,
    train_and_hang,
    train_on_a_full_disk,
    train_while_the_last_save_is_refused,
    train_with_a_collective_too_many,
    train_with_poison,
    trajectory,
    weights,
)
from training.checkpoint.rollbacks import read_rollbacks
from training.data.tokens_read import count_tokens_read
from training.loop.hangs import judge, read_hang

BATCH = 5
QUIET = {"spikes": None, "max_skipped_steps": 3}


@pytest.mark.parametrize(
    ("stage", "precision"),
    [(stage, precision) for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16")],
)
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights_alone(tmp_path, stage, precision, what):
    config = tiny_config(precision=precision, stability=QUIET, checkpoint_every_steps=1, num_steps=4)
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=stage, retention={"newest": 9})
    assert run_ranks(train_with_poison, 2, [job], {2 * BATCH: what}) == [None, None]
    assert [line.updated for line in lines(job)] == [True, True, False, True]
    assert [line.num_skipped for line in lines(job)] == [0, 0, 1, 1]
    before, during, after = (weights(job, step) for step in (2, 3, 4))
    assert all((before[name] == during[name]).all() for name in before)
    assert any((during[name] != after[name]).any() for name in before)


@pytest.mark.parametrize(
    "stage",
    [pytest.param(1, marks=OFFLOADS), *(pytest.param(s, marks=[*OFFLOADS, pytest.mark.long]) for s in (2, 3))],
)
def test_an_offloaded_step_that_is_skipped_leaves_nothing_for_the_next(tmp_path, stage):
    """The gradient of the step after it is the one that a stage which keeps nothing has."""
    settings = {"precision": "bf16", "stability": QUIET, "num_steps": 4}
    pool = {"world_size": 2, "offload_optimizer": True}
    config = tiny_config(**settings)
    jobs = [tiny_job(tmp_path, config, zero_stage=stage, name=what, **pool) for what in ("loss", "gradient")]
    calm = tiny_job(tmp_path, config, world_size=2, zero_stage=1, name="calm")
    for job in jobs:
        assert run_ranks(train_with_poison, 2, [job], {2 * BATCH: job.out.name}) == [None, None]
    assert run_ranks(train_with_poison, 2, [calm], {2 * BATCH: "loss"}) == [None, None]
    expected = [line.gradient_norm for line in lines(calm)][3]
    assert [lines(job)[3].gradient_norm for job in jobs] == pytest.approx([expected] * 2, rel=1e-3)


def test_too_many_such_steps_roll_the_run_back_past_their_data(tmp_path):
    config = tiny_config(stability=QUIET | {"max_skipped_steps": 1}, num_steps=10)
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=1)
    assert run_ranks(train_with_poison, 2, [job], {5 * BATCH: "loss", 6 * BATCH: "loss"}) == [None, None]
    (rollback,) = read_rollbacks(job.out)
    assert (rollback.at_step, rollback.to_step, rollback.skipped) == (7, 4, (25, 35))
    assert [line.step for line in lines(job)] == list(range(1, 11))
    assert [line.first_place for line in lines(job)] == [0, 5, 10, 15, 20, 35, 40, 45, 50, 55]
    assert all(line.updated for line in lines(job))
    assert lines(job)[-1].num_rollbacks == 1
    assert "rolled back from step 7 to step 4, leaving out 10 samples" in (job.out / "notices.txt").read_text()


def test_a_run_that_rolled_back_and_is_resumed_gives_the_same(tmp_path):
    config = tiny_config(stability=QUIET | {"max_skipped_steps": 0}, num_steps=8)
    job = tiny_job(tmp_path, config, world_size=1, zero_stage=1)
    assert run_ranks(train_with_poison, 1, [job], {3 * BATCH: "loss"}) == [None]
    whole = trajectory(job)
    for step in (8, 6):
        shutil.rmtree(job.out / "checkpoints" / f"step-{step:08d}")
        assert run_ranks(train_all, 1, [job]) == [None], "the data that was left out stays left out"
        assert trajectory(job) == whole


def test_a_spike_rolls_the_run_back_and_a_run_that_does_it_again_fails(tmp_path):
    spikes = {"window_steps": 16, "threshold": 8, "patience_steps": 2}
    config = tiny_config(stability={"spikes": spikes, "max_rollbacks": 1}, num_steps=16, checkpoint_every_steps=4)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 1e-4})})
    job = tiny_job(tmp_path, config, world_size=1, zero_stage=1)
    assert run_ranks(train_with_poison, 1, [job], {10 * BATCH: "spike", 11 * BATCH: "spike"}) == [None]
    (rollback,) = read_rollbacks(job.out)
    assert (rollback.at_step, rollback.to_step, rollback.skipped) == (12, 8, (50, 60))
    assert "robust standard deviations above its median" in rollback.reason


def test_what_was_read_is_known_after_a_rollback(tmp_path):
    config = tiny_config(stability=QUIET | {"max_skipped_steps": 0}, num_steps=8)
    job = tiny_job(tmp_path, config, world_size=1, zero_stage=1)
    run_ranks(train_with_poison, 1, [job], {3 * BATCH: "loss"})
    from training.checkpoint.directory import read_record

    record = read_record(job.out / "checkpoints" / "step-00000008")
    assert record.position.skipped == ((15, 20),)
    assert record.tokens_read == count_tokens_read(record.order, record.position)
    assert sum(record.tokens_read.values()) == record.num_tokens == lines(job)[-1].num_tokens


def test_a_hang_ends_with_the_stack_of_every_rank(tmp_path):
    job = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1, hang_timeout_seconds=3)
    assert run_ranks(train_and_hang, 2, job, 3) == [1, 1]
    stacks = sorted(job.out.glob("stacks/*/rank-*.txt"))
    texts = [path.read_text() for path in stacks]
    assert len(texts) == 2
    assert "sleep_for_ever" in texts[1]
    assert "all_reduce" in texts[0] or "backward" in texts[0]
    (notice,) = [line for line in (job.out / "notices.txt").read_text().splitlines() if "made no progress" in line]
    assert " made no progress for 3 s, during " in notice
    assert f"the others wait for rank 1 on {socket.gethostname()} (rank 1 during " in notice
    (hang,) = job.out.glob("stacks/*")
    found = read_hang(hang)
    assert [one.in_collective for one in found] == [True, False]
    entered = [one.entered for one in found]  # by the record of PyTorch itself
    assert entered[0] and entered[1] and sum(entered[0].values()) == sum(entered[1].values()) + 1
    assert judge([replace(one, entered=None, started=None) for one in found]).suspects == (1,)


def test_unequal_collectives_end_as_a_hang_or_an_error(tmp_path):
    job = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1, hang_timeout_seconds=3)
    assert run_ranks(train_with_a_collective_too_many, 2, job, 3) == [1, 1]
    assert len(lines(job)) == 3


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path):
    calm = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1, name="calm")
    job = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1)
    assert run_ranks(train_all, 2, [calm]) == [None, None]
    results = run_ranks(train_on_a_full_disk, 2, job, 4)
    assert results[0].num_steps == 6
    assert trajectory(job) == trajectory(calm)
    assert sorted(path.name for path in (job.out / "checkpoints").glob("step*")) == ["step-00000002", "step-00000006"]
    assert not list((job.out / "checkpoints").glob(".step*"))
    said = (job.out / "notices.txt").read_text()
    assert "the checkpoint of step 4 could not be written (No space left on device); the checkpoints before" in said


def test_a_full_disk_at_the_last_save_is_told_once_by_the_rank_that_met_it(tmp_path):
    job = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1)
    victim, cause = run_ranks(fail_on_a_full_disk, 2, job, 6)
    assert cause.startswith(f"OSError {errno.ENOSPC} ")
    assert victim.startswith("OtherRankFailed None another rank could not write")
    assert "could not be written" not in (job.out / "notices.txt").read_text()


def test_a_file_system_that_is_away_when_training_ends_is_waited_for(tmp_path):
    """Else the steps since the checkpoint before would be taken again."""
    calm = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1, name="calm")
    job = tiny_job(tmp_path, tiny_config(), world_size=2, zero_stage=1)
    assert run_ranks(train_all, 2, [calm]) == [None, None]
    results = run_ranks(train_while_the_last_save_is_refused, 2, job, 6, errno.ESTALE)
    assert results[0].num_steps == 6 and trajectory(job) == trajectory(calm)
    assert all((weights(job, 6)[name] == value).all() for name, value in weights(calm, 6).items())
    assert "the last checkpoint could not be written, which may pass" in (job.out / "notices.txt").read_text()
