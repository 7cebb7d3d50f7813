"""DeepSpeed's configuration, and the sizes of its buffers that the memory plan counts on."""

from dataclasses import replace
from typing import Any

import pytest
from deepspeed.comm.config import DeepSpeedCommsConfig
from deepspeed.runtime import engine
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig
from pydantic import BaseModel

from cluster.machines import Node
from cluster.placement import Placement, place
from configs.base import Config
from configs.deepspeed import DeepSpeedConfig, OffloadOptimizerConfig, ZeroOptimizationConfig
from configs.pools import PoolConfig
from tests.training.ranks import tiny_config
from training.sizing import memory
from training.zero import config, muon
from training.zero.config import choose_buffers, deepspeed_config

NUM_TRAINED = 8 * 10**9


def placement(*, num_gpus: int = 0, **pool: Any) -> Placement:
    return place(PoolConfig(**pool), [Node("a", 64, num_gpus, 2**34)], wandb=None)


def zero_settings(
    *, num_gpus: int = 0, num_trained: int = NUM_TRAINED, recipe: dict[str, Any] | None = None, **pool: Any
) -> DeepSpeedZeroConfig:
    """What the installed DeepSpeed reads."""
    laid_out = placement(num_gpus=num_gpus, **pool)
    settings = deepspeed_config(tiny_config(**recipe or {}), laid_out, num_trained=num_trained)["zero_optimization"]
    assert isinstance(settings, dict)
    return DeepSpeedZeroConfig(**settings)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_on_cpus_buffers_and_overlap_are_deepspeeds_own(stage: int, offload: bool) -> None:
    read, default = zero_settings(zero_stage=stage, offload_optimizer=offload and stage > 0), DeepSpeedZeroConfig()
    assert read.stage == stage
    assert read.reduce_bucket_size == default.reduce_bucket_size == config.CPU_BUCKET_ELEMENTS
    assert read.max_live_parameters == default.max_live_parameters == config.MAX_LIVE_ELEMENTS
    assert read.prefetch_bucket_size == default.prefetch_bucket_size == config.PREFETCH_ELEMENTS
    assert read.use_multi_rank_bucket_allreduce is default.use_multi_rank_bucket_allreduce
    assert read.overlap_comm is (stage == 3)
    assert engine.MEMORY_OPT_ALLREDUCE_SIZE == config.ALLREDUCE_BUCKET_ELEMENTS


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_on_gpus_gradients_are_reduced_behind_the_passes(stage: int) -> None:
    read = zero_settings(num_gpus=8, zero_stage=stage)
    assert read.overlap_comm is (stage > 0)
    assert read.contiguous_gradients is read.reduce_scatter is True


@pytest.mark.parametrize(
    ("num_trained", "bucket"),
    [(10**6, 10**6), (125 * 10**6, 16 * 10**6), (10**9, 62_500_000), (8 * 10**9, 2 * 10**8), (70 * 10**9, 2 * 10**8)],
)
def test_on_gpus_a_bucket_is_no_larger_than_a_model_of_its_size_needs(num_trained: int, bucket: int) -> None:
    assert zero_settings(num_gpus=8, zero_stage=2, num_trained=num_trained).reduce_bucket_size == bucket


def test_on_gpus_gradients_go_to_their_owners_unless_each_owns_little() -> None:
    for num_trained, to_owners in ((8 * 10**9, True), (5 * 10**6, False)):
        read = zero_settings(num_gpus=8, zero_stage=1, num_trained=num_trained)
        assert read.use_multi_rank_bucket_allreduce is not to_owners


def test_what_the_pool_sets_stands() -> None:
    keys = {"overlap_comm": False, "reduce_bucket_size": 7, "stage3_max_live_parameters": 9, "sub_group_size": 11}
    pool = {"zero_stage": 3, "offload_optimizer": True}
    zero = keys | {"zero_hpz_partition_size": 4, "offload_optimizer": {"pin_memory": False}}
    read = zero_settings(num_gpus=8, deepspeed={"zero_optimization": zero}, **pool)
    assert (read.overlap_comm, read.reduce_bucket_size, read.max_live_parameters) == (False, 7, 9)
    assert (read.sub_group_size, read.zero_hpz_partition_size) == (11, 4)
    assert read.offload_optimizer is not None
    assert (read.offload_optimizer.device, read.offload_optimizer.pin_memory) == ("cpu", False)
    logged = {"comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]}, "wall_clock_breakdown": True}
    settings = deepspeed_config(tiny_config(), placement(deepspeed=logged), num_trained=1)
    assert settings["wall_clock_breakdown"] is True
    assert "memory_breakdown" not in settings
    assert DeepSpeedCommsConfig(settings).comms_logger.prof_ops == ["all_reduce"]


def test_quantised_weights_are_asked_for_by_the_recipe() -> None:
    assert not zero_settings(zero_stage=3).zero_quantized_weights
    assert zero_settings(zero_stage=3, recipe={"zero_quantized_weights": True}).zero_quantized_weights


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (DeepSpeedZeroConfig, ZeroOptimizationConfig),
        (DeepSpeedZeroOffloadOptimizerConfig, OffloadOptimizerConfig),
    ],
)
def test_each_key_of_the_installed_deepspeed_may_be_set_or_is_refused_with_a_reason(
    theirs: type[BaseModel], ours: type[Config]
) -> None:
    names = {field.alias or name for name, field in theirs.model_fields.items()}
    assert ours.model_fields.keys() <= names
    assert names <= ours.model_fields.keys() | ours.refused.keys()
    assert not ours.model_fields.keys() & ours.refused.keys()


def test_each_key_that_the_engine_is_given_at_the_top_may_be_set_or_is_refused() -> None:
    gpus = placement(num_gpus=1, offload_optimizer=True)
    given = deepspeed_config(tiny_config(precision="bf16"), gpus, num_trained=1)
    assert given.keys() <= DeepSpeedConfig.model_fields.keys() | DeepSpeedConfig.refused.keys()


def test_the_memory_plan_and_the_engine_have_the_same_constants_and_buffers() -> None:
    assert memory.choose_buffers is choose_buffers
    assert memory.MUON_BUCKET_ELEMENTS is config.MUON_BUCKET_ELEMENTS is muon.MUON_BUCKET_ELEMENTS
    asked = ZeroOptimizationConfig(reduce_bucket_size=5, stage3_prefetch_bucket_size=0, contiguous_gradients=False)
    buffers = choose_buffers(asked, device="cuda", zero_stage=2, num_trained=NUM_TRAINED)
    huge = ZeroOptimizationConfig(reduce_bucket_size=10**13)
    for device in ("cuda", "cpu"):  # which would allocate all of it
        assert choose_buffers(huge, device=device, zero_stage=2, num_trained=NUM_TRAINED).reduce_bucket == NUM_TRAINED
    assert buffers == replace(buffers, reduce_bucket=5, prefetch_bucket=0, is_contiguous=False, overlaps=True)
