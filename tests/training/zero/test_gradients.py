"""The gradient that the optimizer steps with is summed in fp32, and has one norm in all stages."""

import numpy as np
import pytest

from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import first_gradient, lines, train_and_keep_gradients

WORLD = 3
WIDE = {"hidden_size": 192, "intermediate_size": 768, "num_layers": 1, "num_attention_heads": 3}
"""Matrices of some 100,000 elements, whose squares fp32 does not add up exactly."""


def jobs_of(directory, stages, **changes):
    settings = {"model": WIDE, "num_steps": 1, "global_batch_size": 7}
    settings |= {"optimizer": {"learning_rate": 0.01, "max_gradient_norm": 1e9}, "schedule": {"kind": "cosine"}}
    settings["schedule"]["num_warmup_steps"] = 0
    config = tiny_config(**settings | changes)
    return [
        tiny_job(directory, config, world_size=WORLD, zero_stage=stage, name=f"{stage}", micro_batch_size=1)
        for stage in stages
    ]


def relative_errors(jobs):
    """The error of each job's gradient against the fp64 sum of all ranks' own, relative to its norm."""
    kept = run_ranks(train_and_keep_gradients, WORLD, jobs)
    errors = []
    for number, job in enumerate(jobs):
        exact = {name: sum(own[number][name] for own in kept).ravel() for name in kept[0][number]}
        found = first_gradient(job)
        assert found.keys() == exact.keys()
        difference = np.concatenate([found[name] - exact[name] for name in exact])
        errors.append(float(np.linalg.norm(difference) / np.linalg.norm(np.concatenate(list(exact.values())))))
    return errors


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_summed_in_fp32_in_every_stage_and_have_one_norm(tmp_path, precision):
    jobs = jobs_of(tmp_path, (0, 1, 2, 3), precision=precision)
    assert relative_errors(jobs) == pytest.approx([0] * 4, abs=5e-7)
    norms = [lines(job)[0].gradient_norm for job in jobs]
    exact = np.linalg.norm(np.concatenate(list(first_gradient(jobs[1]).values())))
    assert norms == pytest.approx([exact] * 4, rel=1e-6)


def test_a_recipe_may_sum_over_ranks_in_bf16(tmp_path):
    jobs = jobs_of(tmp_path, (0, 1, 2, 3), precision="bf16", reduce_precision="bf16")
    assert all(1e-3 < error < 1e-2 for error in relative_errors(jobs))


def test_clipping_scales_the_gradient_down_to_the_same_norm_in_every_stage(tmp_path):
    optimizer = {"learning_rate": 0.01, "max_gradient_norm": 0.01}
    jobs = jobs_of(tmp_path, (0, 1, 2, 3), optimizer=optimizer)
    run_ranks(train_and_keep_gradients, WORLD, jobs)
    norms = [np.linalg.norm(np.concatenate(list(first_gradient(job).values()))) for job in jobs]
    assert norms == pytest.approx([0.01] * 4, rel=2e-4)  # 1e-6 is added to the norm that is divided by
    assert norms == pytest.approx(norms[:1] * 4, rel=1e-6)
