"""A mixture of experts is trained alike in every layout and after a restart, and its terms are in the metrics."""

import shutil

import pytest

from tests.training.ranks import MIXTURE_OF_EXPERTS, run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, train_all, trajectory, weights

MODEL = MIXTURE_OF_EXPERTS | {
    "overrides": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "router_balance": 0.5,
    "router_z": 0.01,
    "output_z": 0.01,
}
STEPS = 6


def job_of(directory, name, *, world_size=1, stage=1, rows=2, **changes):
    config = tiny_config(model=MODEL | changes, num_steps=STEPS, optimizer={"learning_rate": 0.003})
    pool = {"micro_batch_size": rows, "retention": {"newest": 9}}
    return tiny_job(directory, config, world_size=world_size, zero_stage=stage, name=name, **pool)


@pytest.mark.parametrize("by", ["batch", "sequence"])
def test_no_layout_changes_what_is_trained(tmp_path, by):
    jobs = [
        job_of(tmp_path, "1", router_balance_by=by),
        job_of(tmp_path, "rows", rows=5, router_balance_by=by),
        job_of(tmp_path, "3", world_size=3, stage=3, rows=1, router_balance_by=by),
    ]
    assert run_ranks(train_all, 1, jobs[:2]) == [None]
    assert run_ranks(train_all, 3, jobs[2:]) == [None] * 3
    for job in jobs:
        for line, expected in zip(lines(job), lines(jobs[0]), strict=True):
            assert line.loss == pytest.approx(expected.loss, rel=2e-5)
            assert line.terms == pytest.approx(expected.terms, rel=2e-4)
    for line in lines(jobs[0]):
        assert line.terms.keys() == {"router_balance", "router_z", "output_z"}
        assert 2 - 1e-6 <= line.terms["router_balance"] < 4, "two experts a token, of four"
        assert all(1 <= load <= 2 for load in line.expert_load["max"])
        assert all(0 <= load <= 1 for load in line.expert_load["min"])
        assert len(line.expert_load["max"]) == len(line.expert_load["min"]) == 2


def test_over_a_batch_experts_become_equally_busy(tmp_path):
    changes = {"num_steps": 30, "global_batch_size": 16, "optimizer": {"learning_rate": 0.003}}
    jobs = []
    for weight in (0.1, 1e-9):
        config = tiny_config(model=MODEL | {"router_balance": weight}, **changes)
        jobs.append(tiny_job(tmp_path, config, world_size=1, zero_stage=1, name=str(weight), micro_batch_size=4))
    assert run_ranks(train_all, 1, jobs) == [None]
    balanced, free = (lines(job)[-1] for job in jobs)
    assert balanced.terms["router_balance"] < 2.02
    assert max(balanced.expert_load["max"]) < 1.7 < max(free.expert_load["max"])


def test_a_resumed_run_is_the_same(tmp_path):
    job = job_of(tmp_path, "out")
    assert run_ranks(train_all, 1, [job]) == [None]
    whole, final = trajectory(job), weights(job, STEPS)
    shutil.rmtree(job.out / "checkpoints" / f"step-{STEPS:08d}")
    assert run_ranks(train_all, 1, [job]) == [None]
    assert trajectory(job) == whole
    assert all((tensor == final[name]).all() for name, tensor in weights(job, STEPS).items())


def test_a_model_without_experts_has_no_terms(tmp_path):
    job = tiny_job(tmp_path, tiny_config(num_steps=2), world_size=1, zero_stage=1)
    assert run_ranks(train_all, 1, [job]) == [None]
    assert (lines(job)[0].terms, lines(job)[0].expert_load) == ({}, {})
