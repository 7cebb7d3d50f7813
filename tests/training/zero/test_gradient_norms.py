"""The norm of the gradient by layer is that of the gradient the optimizer steps with, wherever ZeRO keeps it."""

import math
from collections import defaultdict

import numpy as np
import pytest

from configs.training.train import CadenceConfig
from tests.training.loop.test_elastic import OFFLOADS
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import first_gradient, lines, train_all, weights

EVERY = CadenceConfig(gradient_norms_every_steps=1)
MODEL = {"hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_attention_heads": 3}
PARTS = {"embed_tokens": "embedding", "layers.0": "layer_0", "layers.1": "layer_1", "lm_head": "output"}


def jobs_of(directory, cases, *, world_size, **pool):
    """One step each, clipped to a hundredth of its gradient or less."""
    optimizer, schedule = {"learning_rate": 0.01, "max_gradient_norm": 0.01}, {"kind": "cosine", "num_warmup_steps": 0}
    jobs = []
    for stage, precision in cases:
        config = tiny_config(model=MODEL, num_steps=1, optimizer=optimizer, schedule=schedule, precision=precision)
        name = f"{stage}-{precision}"
        job = tiny_job(directory, config, world_size=world_size, zero_stage=stage, name=name, cadence=EVERY, **pool)
        jobs.append(job)
    assert run_ranks(train_all, world_size, jobs) == [None] * world_size
    return jobs


def norms_of_moments(job):
    """The norm of the clipped gradient by part of the model, from AdamW's first moment."""
    squares = defaultdict(float)
    for name, values in first_gradient(job).items():
        part = next((part for piece, part in PARTS.items() if piece in name), "rest")
        squares[part] += float(np.square(values).sum())
    return {part: math.sqrt(square) for part, square in squares.items()}


def check(job):
    (line,) = lines(job)
    assert line.gradient_norms.keys() == {*PARTS.values(), "rest"}
    whole = math.sqrt(sum(norm**2 for norm in line.gradient_norms.values()))
    assert whole == pytest.approx(line.gradient_norm, rel=1e-6)
    assert whole > 0.1, "it is taken before clipping"
    clipped = norms_of_moments(job)
    scale = whole / math.sqrt(sum(norm**2 for norm in clipped.values()))
    assert line.gradient_norms == pytest.approx({part: scale * norm for part, norm in clipped.items()}, rel=1e-5)


def test_the_norms_by_layer_are_those_of_the_gradient_in_every_stage(tmp_path):
    cases = [(stage, precision) for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16")]
    jobs = jobs_of(tmp_path, cases, world_size=2)
    for job in jobs:
        check(job)
    for precision in ("fp32", "bf16"):
        first, *others = [lines(job)[0] for job in jobs if job.config.precision == precision]
        for line in others:
            assert line.gradient_norms == pytest.approx(first.gradient_norms, rel=1e-5)


@OFFLOADS[0]
@OFFLOADS[1]
def test_the_norms_of_gradients_in_host_memory_are_taken_too(tmp_path):
    for job in jobs_of(tmp_path, [(2, "fp32"), (3, "bf16")], world_size=2, offload_optimizer=True):
        check(job)


def test_norms_are_taken_in_the_steps_asked_for_and_leave_out_what_is_frozen(tmp_path):
    frozen = tiny_config(freeze=["model.layers.0.*", "model.embed_tokens.*"], num_steps=5)
    plain = tiny_config(num_steps=5, checkpoint_every_steps=100)
    cadences = [
        CadenceConfig(gradient_norms_every_steps=2),
        CadenceConfig(gradient_norms_every_steps=2, log_every_steps=3),
        CadenceConfig(),
    ]
    jobs = [
        tiny_job(tmp_path, config, world_size=1, zero_stage=stage, name=f"{number}", cadence=cadence)
        for number, (config, stage, cadence) in enumerate(zip([frozen, plain, plain], [3, 1, 1], cadences, strict=True))
    ]
    assert run_ranks(train_all, 1, jobs) == [None]
    assert [line.gradient_norms.keys() for line in lines(jobs[0])] == [set(), {"layer_1", "rest"}] * 2 + [set()]
    tied = {"embedding", "layer_0", "layer_1", "rest"}
    found = [(line.step, line.num_steps, line.gradient_norms.keys()) for line in lines(jobs[1])]
    assert found == [(1, 1, set()), (3, 2, tied), (5, 2, tied)]
    assert [line.gradient_norms for line in lines(jobs[2])] == [{}] * 5
    without = weights(jobs[2], 5)
    assert all((tensor == without[name]).all() for name, tensor in weights(jobs[1], 5).items())
