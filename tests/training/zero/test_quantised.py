"""Weights in 8 bits and gradients in 4, as they are exchanged, and what training makes of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cluster.executor import Rank
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, trainer, trajectory
from training.job import Job
from training.zero.process_group import join_process_group, leave_process_group
from training.zero.quantised import GRADIENT_GROUP_ELEMENTS, WeightQuantizer, group_elements, sum_own_part

WORLD = 2


@pytest.mark.parametrize("size", [1, 7, 64, 4096, 10_007, 3 * 5_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_within_half_a_step_of_their_group(size: int, dtype: torch.dtype) -> None:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    quantized, scales = WeightQuantizer().quantize(weights)
    assert quantized.dtype == torch.int8
    back = WeightQuantizer().dequantize(quantized, scales, dtype)
    assert back.dtype == dtype
    bound = scales.repeat_interleave(size // len(scales)) / 2 + 2**-8 * weights.float().abs()
    assert ((back.float() - weights.float()).abs() <= bound).all()
    assert group_elements(size) * len(scales) == size


def test_weights_of_which_the_last_ranks_padding_was_cut_off_come_back() -> None:
    quantized, scales = WeightQuantizer().quantize(torch.arange(4096.0))
    whole = WeightQuantizer().dequantize(quantized, scales)
    assert (WeightQuantizer().dequantize(quantized[:-1], scales) == whole[:-1]).all()


def gradient_of(rank: int, size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1000 * rank + size)) * 1e-9


SIZES = [1, 2, 5, GRADIENT_GROUP_ELEMENTS * WORLD, 4096 * 3 + 1]


def add_up_and_train(rank: Rank, jobs: list[Job]) -> list[npt.NDArray[np.float32]]:
    """Train each job; this rank's part of the sum of each gradient, and of one that rank 1 has not finite."""
    join_process_group(rank, timeout_seconds=60)
    sums = [sum_own_part(gradient_of(rank.index, size)) for size in SIZES]
    broken = torch.ones(4 * GRADIENT_GROUP_ELEMENTS)
    broken[5] = float("inf") if rank.index == 1 else 1.0
    sums += [sum_own_part(broken), sum_own_part(torch.zeros(7))]
    for job in jobs:
        trainer(rank, job).run()
    leave_process_group()
    return [part.numpy() for part in sums]


@dataclass(frozen=True)
class Ran:
    """What the ranks were given and gave: an exact training, a quantised one, and one that was resumed half-way."""

    sums: list[torch.Tensor]
    exact: Job
    quantised: Job
    resumed: Job


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The norms of the tiny model stay gathered, and its matrices do not."""
    directory = tmp_path_factory.mktemp("jobs")

    def job(name: str, *, num_steps: int = 4, **quantised: bool) -> Job:
        schedule = {"kind": "wsd", "num_warmup_steps": 0, "num_decay_steps": 0}
        config = tiny_config(num_steps=num_steps, schedule=schedule, precision="bf16", **quantised)
        pool: dict[str, Any] = {"deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 50}}}
        return tiny_job(directory, config, world_size=WORLD, zero_stage=3, name=name, **pool)

    both = {"zero_quantized_weights": True, "zero_quantized_gradients": True}
    exact, half, whole, resumed = job("e"), job("half", num_steps=2, **both), job("whole", **both), job("half", **both)
    parts = run_ranks(add_up_and_train, WORLD, [exact, half, whole, resumed])
    sums = [torch.from_numpy(np.concatenate(pieces)) for pieces in zip(*parts, strict=True)]
    return Ran(sums, exact, whole, resumed)


def test_gradients_are_added_up_by_their_owners_to_the_precision_of_4_bits(ran: Ran) -> None:
    *sums, broken, zero = ran.sums
    for size, found in zip(SIZES, sums, strict=True):
        gradients = torch.stack([gradient_of(rank, size) for rank in range(WORLD)])
        assert (found.dtype, found.shape) == (torch.float32, (size,))
        half_steps = gradients.abs().amax(dim=1).sum() / 14
        assert (found - gradients.sum(dim=0)).abs().max() <= 1.001 * half_steps
    whole = broken[GRADIENT_GROUP_ELEMENTS:]
    assert not broken[:GRADIENT_GROUP_ELEMENTS].isfinite().any()
    torch.testing.assert_close(whole, torch.full_like(whole, WORLD))
    assert (zero == 0).all()


def test_a_quantised_training_is_near_the_exact_one(ran: Ran) -> None:
    losses, quantised = ([line.loss for line in lines(job)] for job in (ran.exact, ran.quantised))
    assert quantised == pytest.approx(losses, rel=0.05)
    assert all(one != other for one, other in zip(losses, quantised, strict=True))


def test_a_quantised_training_is_resumed_bit_for_bit(ran: Ran) -> None:
    assert trajectory(ran.resumed) == trajectory(ran.quantised)
