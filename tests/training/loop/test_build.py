"""First weights: the same for any number of ranks and ZeRO stage, exact in every precision, and never held whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.ranks import MIXTURE_OF_EXPERTS, VOCAB, run_ranks, tiny_config, tiny_job
from tests.training.trials import put_together, states_held
from training.conform.memory import memory_changes
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config

FROZEN = ("model.layers.0.*",)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_first_weights_are_equal_for_any_ranks_and_stage(tmp_path: Path, world_size: int) -> None:
    cases = [(0, "fp32", ()), (1, "bf16", ()), (2, "bf16", ()), (3, "fp32", ()), (3, "bf16", FROZEN), (0, "bf16", ())]
    configs = [
        tiny_config(seed=7, model=MIXTURE_OF_EXPERTS, precision=precision, freeze=freeze)
        for _, precision, freeze in cases
    ]
    jobs = [
        tiny_job(tmp_path, config, world_size=world_size, zero_stage=case[0], name=str(number))
        for number, (case, config) in enumerate(zip(cases, configs, strict=True))
    ]
    held = run_ranks(states_held, world_size, jobs)
    settings = make_model_config(configs[0], vocab_size=VOCAB, eos_id=1, pad_id=2)
    expected = {name: p.detach() for name, p in build_in_memory(settings, seed=7).named_parameters()}
    for number, (_, precision, freeze) in enumerate(cases):
        state = put_together([piece for rank in held for piece in rank[number]])
        frozen = state.pop("frozen", {})
        assert state["master"].keys() | frozen.keys() == expected.keys() and bool(frozen) == bool(freeze)
        for name, weights in state["master"].items():
            assert np.array_equal(weights, expected[name].flatten().numpy()), (number, name)
        for name, weights in frozen.items():
            rounded = expected[name].bfloat16() if precision == "bf16" else expected[name]
            assert np.array_equal(weights, rounded.flatten().float().numpy()), (number, name)
        assert all(not values.any() for values in state["exp_avg"].values())


def test_a_rank_of_zero_3_never_has_more_than_one_parameter_whole(tmp_path: Path) -> None:
    """The largest allocation from the beginning to the first pass is the largest parameter, not the model."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_layers": 12, "num_attention_heads": 4}
    config = tiny_config(model=sizes)
    small = {"reduce_bucket_size": 1000, "stage3_max_live_parameters": 1000, "stage3_prefetch_bucket_size": 1000}
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=3, deepspeed={"zero_optimization": small})
    for found in run_ranks(peak_of_start, 2, job):
        model, largest = found["parameters"] * 4, 4 * VOCAB * 64
        # shard, masters, two moments, gradients, and the copy that joins the shards
        assert found["peak"] < 0.5 * 6 * model + 2 * largest
        assert found["largest"] < 0.51 * model


def peak_of_start(rank, job):  # type: ignore[no-untyped-def]
    from tests.training.trials import trainer
    from training.zero.process_group import join_process_group, leave_process_group

    join_process_group(rank, timeout_seconds=60)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        subject = trainer(rank, job)
    leave_process_group()
    sizes = memory_changes(profile)
    shapes = subject.state.built.shapes.values()
    return {
        "peak": max(np.cumsum(sizes)),
        "largest": max(sizes),
        "parameters": sum(int(np.prod(shape)) for shape in shapes),
    }
