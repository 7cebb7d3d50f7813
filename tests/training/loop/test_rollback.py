"""After a roll-back the process that was there goes on as fresh processes do from the same checkpoint, bit for bit."""

import shutil

import pytest

from configs.training.train import CadenceConfig
from tests.training.loop.test_elastic import OFFLOADS
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, state_held, train_all, train_with_poison, trajectory, weights
from training.checkpoint.directory import read_record
from training.checkpoint.rollbacks import read_rollbacks

BATCH, STEPS = 5, 13
TROUBLE = {2 * BATCH: "loss", 3 * BATCH: "gradient", 12 * BATCH: "spike", 13 * BATCH: "spike"}
RULE = {
    "max_skipped_steps": 1,
    "max_rollbacks": 2,
    "spikes": {"window_steps": 16, "threshold": 8, "patience_steps": 2},
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A checkpoint whose fp32 weights bf16 cannot hold."""
    job = tiny_job(tmp_path_factory.mktemp("origin"), tiny_config(num_steps=2), world_size=1, zero_stage=1)
    assert run_ranks(train_all, 1, [job]) == [None]
    return job


LAYOUTS = [
    *((2, stage, {}) for stage in (0, 1, 2, 3)),
    *(pytest.param(1, stage, {}, marks=pytest.mark.long) for stage in (0, 1, 2, 3)),
    *(pytest.param(2, stage, {"offload_optimizer": True}, marks=[*OFFLOADS, pytest.mark.long]) for stage in (1, 2, 3)),
]


@pytest.mark.parametrize(("world_size", "stage", "more"), LAYOUTS)
def test_going_on_after_a_rollback_equals_fresh_processes(tmp_path, origin, world_size, stage, more):
    jobs = []
    for precision in ("fp32", "bf16"):
        settings = {"optimizer": {"learning_rate": 1e-3}, "checkpoint_every_steps": 4, "num_steps": STEPS}
        start = {"path": str(origin.out / "checkpoints" / "step-00000002")}
        config = tiny_config(precision=precision, stability=RULE, init_from=start, **settings)
        pool = {"zero_stage": stage, "retention": {"newest": 9}} | more
        jobs.append(tiny_job(tmp_path, config, world_size=world_size, name=precision, **pool))
    assert run_ranks(train_with_poison, world_size, jobs, TROUBLE) == [None] * world_size
    whole = [(trajectory(job), weights(job, STEPS)) for job in jobs]
    for job in jobs:
        assert [(r.at_step, r.to_step) for r in read_rollbacks(job.out)] == [(4, 0), (12, 8)]
        assert [line.first_place for line in lines(job)][:3] == [0, BATCH, 4 * BATCH]
    for kept in (8, 0):
        for job in jobs:
            for directory in (job.out / "checkpoints").glob("step-*"):
                if int(directory.name[5:]) > kept:
                    shutil.rmtree(directory)
        assert run_ranks(train_all, world_size, jobs) == [None] * world_size
        for job, (steps, final) in zip(jobs, whole, strict=True):
            assert trajectory(job) == steps, (kept, job.config.precision)
            assert all((tensor == final[name]).all() for name, tensor in weights(job, STEPS).items())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_masters_of_a_bf16_training_are_the_given_weights_unrounded(tmp_path, origin, stage):
    start = {"init_from": {"path": str(origin.out / "checkpoints" / "step-00000002")}}
    job = tiny_job(tmp_path, tiny_config(precision="bf16", **start), world_size=2, zero_stage=stage)
    given, rounded = weights(origin, 2), False
    for kind, name, offset, values in [piece for held in run_ranks(state_held, 2, job) for piece in held]:
        expected = given[name].flatten()[offset : offset + len(values)]
        if kind == "master":
            assert (values == expected.numpy()).all(), name
            rounded = rounded or bool((expected != expected.bfloat16().float()).any())
        else:
            assert not values.any(), "the moments begin at zero"
    assert rounded, "else bf16 could hold the given weights"


def test_further_saves_change_nothing_that_is_made_and_no_roll_back_goes_to_them(tmp_path):
    """Each step is saved, and one checkpoint of the recipe's own is kept: the roll-backs are as without."""
    settings = {"optimizer": {"learning_rate": 1e-3}, "checkpoint_every_steps": 4, "num_steps": STEPS}
    config = tiny_config(stability=RULE, validation=None, **settings)  # or the best checkpoint would stay, too
    often = {"cadence": CadenceConfig(checkpoint_every_minutes=1e-9), "retention": {"newest": 1}}
    jobs = [
        tiny_job(tmp_path, config, world_size=1, zero_stage=1, name="calm", retention={"newest": 9}),
        tiny_job(tmp_path, config, world_size=1, zero_stage=1, name="often", **often),
    ]
    trouble = {7 * BATCH: "loss", 8 * BATCH: "gradient"}  # on both sides of the checkpoint of step 8
    assert run_ranks(train_with_poison, 1, jobs, trouble) == [None]
    assert [(r.at_step, r.to_step) for r in read_rollbacks(jobs[1].out)] == [(9, 4)]
    begun = (jobs[1].out / "checkpoints" / "begun.txt").read_text().split()
    assert begun == [*map(str, [*range(1, 9), *range(5, STEPS + 1)])]
    assert trajectory(jobs[0]) == trajectory(jobs[1])
    assert all((tensor == weights(jobs[0], STEPS)[name]).all() for name, tensor in weights(jobs[1], STEPS).items())
    losses = [[read_record(d).loss for d in sorted((job.out / "checkpoints").glob("step-*"))] for job in jobs]
    assert losses[0][-1] == losses[1][-1], "the loss since the recipe's own checkpoint before"
    assert [path.name for path in (jobs[1].out / "checkpoints").glob("step-*")] == [f"step-{STEPS:08d}"]
