"""Trainings that must give the same twice: stopped and resumed, and by deterministic kernels."""

import shutil
from collections.abc import Iterator

import torch

from configs.base import UserError
from training.accelerator import is_accelerator
from training.checkpoint.directory import load_weights
from training.conform.record import Check, judged
from training.conform.synthetic_job import Bench, make_config, make_job, train
from training.job import Job
from training.records import CHECKPOINTS, directory_of

REPEAT_FACTOR = 4.0
"""On an accelerator, whose kernels may add in any order, a resumed training may be this many times as far from one
without a stop as a repeated one is: the differences of few steps vary."""


def check_resume(bench: Bench) -> Iterator[Check]:
    """Compare a training with one that was resumed from its checkpoint half-way; bit-equal on CPUs."""
    whole = _train(bench, "whole")
    half = directory_of(whole.out / CHECKPOINTS, whole.config.total_steps // 2)
    resumed = bench.directory / "resumed"
    shutil.copytree(half, directory_of(resumed / CHECKPOINTS, whole.config.total_steps // 2))
    distance = find_distance(whole, _train(bench, "resumed"))
    repeat = find_distance(whole, _train(bench, "repeated")) if is_accelerator(bench.device) else 0.0
    said = "bit-equal" if not distance else f"a repeated training without a stop is {repeat:.1e} away"
    yield judged("resume", distance, limit=REPEAT_FACTOR * repeat, detail=f"relative distance of weights; {said}")


def check_deterministic(bench: Bench) -> Iterator[Check]:
    """Compare two trainings by deterministic kernels, which must be bit-equal."""
    try:
        one, other = (_train(bench, f"deterministic-{number}", deterministic=True) for number in (1, 2))
    except UserError as error:  # it names the operation that has no such kernel
        yield Check(name="deterministic kernels", detail=str(error))
        return
    distance = find_distance(one, other)
    said = f": {'bit-equal' if not distance else 'they differ'}"
    yield judged("deterministic kernels", distance, limit=0.0, detail=f"relative distance of two trainings{said}")


def _train(bench: Bench, name: str, **pool: object) -> Job:
    trial = bench.scale.small
    config = make_config(trial, checkpoint_every_steps=trial.num_steps // 2)
    job = make_job(bench, trial, name, config=config, **pool)
    train(bench, job)
    return job


def find_distance(one: Job, other: Job) -> float:
    """Return the distance of the weights of two trainings of one recipe at their end, relative to their norm."""
    first, second = (load_weights(directory_of(job.out / CHECKPOINTS, job.config.total_steps)) for job in (one, other))
    squares = torch.stack([(first[name].double() - second[name].double()).square().sum() for name in first])
    norms = torch.stack([tensor.double().square().sum() for tensor in first.values()])
    return float((squares.sum() / norms.sum()).sqrt())
