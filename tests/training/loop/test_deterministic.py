"""Deterministic kernels: a training has them where its pool asks for it, and the process loses them with it."""

import os
from dataclasses import replace

import pytest
import torch

from cluster.executor import Rank
from configs.base import UserError
from tests.training.loop.test_experts import job_of
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import before_step, trajectory, weights
from training.job import Job
from training.loop.deterministic import deterministic_kernels
from training.loop.trainer import train_rank

Settings = tuple[bool, bool, bool, str | None, str | None]


def settings() -> Settings:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        os.environ.get("FLASH_ATTENTION_DETERMINISTIC"),
    )


WITHOUT: Settings = (False, False, True, None, None)
WITH: Settings = (True, True, False, ":4096:8", "1")


def train_and_look(rank: Rank, jobs: list[Job]) -> list[Settings]:
    """Train one job after another in one process; the settings at a step of each, and after it."""
    seen: list[Settings] = []
    before_step(1, lambda own: seen.append(settings()))
    for job in jobs:
        train_rank(rank, job)
        seen.append(settings())
        before_step(1, lambda own: seen.append(settings()))
    return seen


def train_by_an_operation_without_such_a_kernel(rank: Rank, job: Job) -> tuple[str, Settings]:
    before_step(1, lambda own: torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0])))  # type: ignore[arg-type, return-value]
    try:
        train_rank(rank, job)
    except UserError as error:
        return str(error), settings()
    return "finished", settings()


def test_training_has_the_same_numbers_with_deterministic_kernels_and_leaves_the_process_without(tmp_path):
    jobs = [
        tiny_job(tmp_path, tiny_config(), world_size=1, zero_stage=3, name=f"llama-{wanted}", deterministic=wanted)
        for wanted in (True, False)
    ]
    experts = [job_of(tmp_path, f"experts-{wanted}") for wanted in (True, False)]
    experts[0] = replace(experts[0], placement=replace(experts[0].placement, deterministic=True))
    (seen,) = run_ranks(train_and_look, 1, [*jobs, *experts])
    assert seen == [WITH, WITHOUT, WITHOUT, WITHOUT] * 2
    for wanted, plain in (jobs, experts):
        assert trajectory(wanted) == trajectory(plain)
        reference = weights(plain, 6)
        assert all(torch.equal(tensor, reference[name]) for name, tensor in weights(wanted, 6).items())


def test_an_operation_without_a_deterministic_kernel_is_named_in_a_sentence(tmp_path):
    job = tiny_job(tmp_path, tiny_config(), world_size=1, zero_stage=1, deterministic=True)
    ((said, after),) = run_ranks(train_by_an_operation_without_such_a_kernel, 1, job)
    assert said == (
        "the pool sets `deterministic`, and PyTorch has no deterministic kernel for put_, which this training "
        "computes; set `deterministic: false` in the cluster file"
    )
    assert after == WITHOUT


def test_other_errors_pass_and_what_was_set_before_is_set_again(tmp_path, monkeypatch):
    placement = tiny_job(tmp_path, tiny_config(), world_size=1, zero_stage=1, deterministic=True).placement
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = settings()
    with pytest.raises(RuntimeError, match=r"^another$"), deterministic_kernels(placement):
        assert settings() == WITH
        raise RuntimeError("another")
    assert settings() == before
