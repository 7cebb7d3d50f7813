"""DeepSpeed's configuration, and the sizes of its buffers that the memory plan counts on."""

from typing import Any

import pytest
from deepspeed.runtime import engine
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from cluster.machines import Node
from cluster.placement import place
from configs.pools import PoolConfig
from tests.training.ranks import tiny_config
from training.sizing import memory
from training.zero import config, muon
from training.zero.config import deepspeed_config


def zero_settings(stage: int, **pool: Any) -> dict[str, Any]:
    placement = place(PoolConfig(zero_stage=stage, **pool), [Node("a", 4, 0, 2**34)], wandb=None)
    settings = deepspeed_config(tiny_config(), placement)["zero_optimization"]
    assert isinstance(settings, dict)
    return settings


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_the_installed_deepspeed_takes_the_sizes_of_its_buffers_from_us(stage: int, offload: bool) -> None:
    parsed = DeepSpeedZeroConfig(**zero_settings(stage, offload_optimizer=offload and stage > 0))
    assert parsed.stage == stage
    assert parsed.reduce_bucket_size == config.REDUCE_BUCKET_ELEMENTS
    assert parsed.max_live_parameters == config.MAX_LIVE_ELEMENTS


def test_our_sizes_are_those_that_the_installed_deepspeed_has_itself() -> None:
    default = DeepSpeedZeroConfig()
    assert default.reduce_bucket_size == config.REDUCE_BUCKET_ELEMENTS
    assert default.max_live_parameters == config.MAX_LIVE_ELEMENTS
    assert engine.MEMORY_OPT_ALLREDUCE_SIZE == config.ALLREDUCE_BUCKET_ELEMENTS


def test_the_memory_plan_and_the_engine_have_the_same_constants() -> None:
    assert memory.REDUCE_BUCKET_ELEMENTS is config.REDUCE_BUCKET_ELEMENTS
    assert memory.MAX_LIVE_ELEMENTS is config.MAX_LIVE_ELEMENTS
    assert memory.MUON_BUCKET_ELEMENTS is config.MUON_BUCKET_ELEMENTS is muon.MUON_BUCKET_ELEMENTS
