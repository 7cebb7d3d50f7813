"""Checks that ranks run in tests, as they are and with something wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cluster.executor import Rank
from training.conform.gradients import compare_gradients, first_gradient, gather, plain_gradient
from training.conform.record import Check
from training.conform.repeats import check_deterministic, check_resume
from training.conform.scale import QUICK
from training.conform.synthetic_job import Bench, make_job, open_trainer, read_inputs
from training.loop import run_state
from training.zero.fragments import owned_fragments
from training.zero.process_group import join_process_group, leave_process_group


def on_bench(rank: Rank, directory: Path, work: Callable[[Bench], Any]) -> Any:
    device = join_process_group(rank, timeout_seconds=60)
    try:
        return work(Bench(rank, device, QUICK, directory))
    finally:
        leave_process_group()


def gradients_right_and_wrong(bench: Bench) -> list[list[Check]]:
    """The checks of a right engine in ZeRO-3, then of one that divides by one in a hundred targets too few."""
    found = []
    for name, factor in (("right", 1.0), ("wrong", 0.99)):
        job = make_job(bench, bench.scale.small, name, zero_stage=3)
        with open_trainer(bench, job) as trainer:
            weights = gather(trainer, "master")
            (step_input,) = read_inputs(trainer, 1)
            batch = replace(step_input.batch, num_targets=step_input.batch.num_targets * factor)
            gradient = first_gradient(trainer, replace(step_input, batch=batch))
        exact = plain_gradient(job, weights, step_input)
        found.append(compare_gradients(name, gradient, exact, precision="fp32"))
    return found


def resume_right_and_wrong(bench: Bench) -> list[Check]:
    """The check of a right resume, of deterministic kernels, and of a resume that changes the weights."""
    right = [*check_resume(bench), *check_deterministic(bench)]
    original = run_state.restore

    def restore_badly(engine: Any, *arguments: Any, **named: Any) -> Any:
        progress = original(engine, *arguments, **named)
        if progress is not None:
            for fragment in owned_fragments(engine):
                fragment.tensors["master"].mul_(1.001)
        return progress

    run_state.restore = restore_badly
    (bench.directory / "again").mkdir()
    return [*right, *check_resume(replace(bench, directory=bench.directory / "again"))]


def no_bench(directory: Path) -> Bench:
    """A bench for checks that need no process group."""
    rank = Rank(0, 1, "cpu", 1, "127.0.0.1", 0, num_restarts=0)
    return Bench(rank, torch.device("cpu"), QUICK, directory)


def named(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}
