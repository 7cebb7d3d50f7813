from dataclasses import replace

import pytest

from cluster.machines import GIB, Node
from cluster.placement import Placement, place
from configs.base import ConfigError
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from tests.training.sizing.test_memory import MEDIUM
from training.sizing.fit import HEADROOM, LayoutChoice, apply_choice, choose_layout
from training.sizing.model_size import ModelSize

LARGE = replace(
    MEDIUM, num_parameters=8 * 10**9, num_trained=8 * 10**9, hidden_size=4096, ffn_size=14336, num_layers=32
)


def recipe(**changes) -> TrainConfig:
    settings = {
        "model": {"hidden_size": 64, "intermediate_size": 64, "num_layers": 1, "num_attention_heads": 1},
        "sequence_length": 2048,
        "global_batch_size": 256,
        "num_steps": 10,
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"kind": "cosine", "num_warmup_steps": 0},
    }
    return TrainConfig.model_validate(settings | changes)


def gpus(num_nodes: int = 4, gib: float | None = 80, **pool) -> Placement:
    size = int(gib * GIB) if gib else None
    nodes = [Node(f"n{i}", 64, 8, 2**40, "H100", size) for i in range(num_nodes)]
    return place(PoolConfig(**pool), nodes, wandb=None)


def chosen(size: ModelSize, config: TrainConfig, placement: Placement) -> LayoutChoice:
    return choose_layout(size, config, placement).chosen


def test_the_lowest_stage_that_fits_is_chosen():
    stages = [chosen(LARGE, recipe(), gpus(gib=gib)).zero_stage for gib in (500, 60)]
    assert stages[0] == 1
    assert stages[1] > 1


@pytest.mark.parametrize("gib", [20, 40, 80, 200])
def test_what_is_chosen_fits_with_headroom(gib):
    placement = gpus(gib=gib)
    choice = chosen(MEDIUM, recipe(sequence_length=1024), placement)
    assert choice.fits
    assert choice.memory.total * HEADROOM["cuda"] <= gib * GIB
    assert choice.micro_batch_size * choice.num_passes >= 256 / 32


@pytest.mark.parametrize(("batch", "ranks"), [(256, 32), (100, 32), (7, 32), (33, 8)])
def test_passes_cover_the_share_of_the_rank_with_most_and_no_row_is_idle(batch, ranks):
    placement = gpus(num_ranks=ranks)
    choice = chosen(MEDIUM, recipe(global_batch_size=batch), placement)
    share = -(-batch // ranks)
    assert choice.num_passes * choice.micro_batch_size >= share
    assert choice.num_passes * (choice.micro_batch_size - 1) < share


def test_no_more_sequences_a_pass_are_chosen_than_bring_something():
    placement = gpus(num_nodes=1, gib=2000)
    assert chosen(MEDIUM, recipe(global_batch_size=4096), placement).micro_batch_size == 16_384 // 2048


def test_on_cpus_memory_is_shared_by_the_ranks_of_a_host():
    placement = place(PoolConfig(), [Node("a", 8, 0, 32 * GIB), Node("b", 8, 0, 16 * GIB)], wandb=None)
    assert placement.memory_bytes_per_rank == 4 * GIB
    assert chosen(MEDIUM, recipe(sequence_length=128, precision="fp32"), placement).micro_batch_size == 8


def test_what_the_pool_fixes_stays():
    fit = choose_layout(MEDIUM, recipe(), gpus(zero_stage=2, micro_batch_size=3))
    assert (fit.chosen.zero_stage, fit.chosen.micro_batch_size, fit.chosen.num_passes) == (2, 3, 3)
    assert [other.choice.zero_stage for other in fit.runners_up] == []
    fixed = gpus(zero_stage=0)
    assert fixed.leaves_open == ("micro_batch_size",)
    assert chosen(MEDIUM, recipe(), fixed).zero_stage == 0


def test_without_knowledge_of_the_memory_it_is_stage_1_and_8_sequences():
    fit = choose_layout(MEDIUM, recipe(), gpus(gib=None))
    assert (fit.chosen.zero_stage, fit.chosen.micro_batch_size, fit.chosen.fits) == (1, 8, True)


def test_an_elastic_training_fits_on_the_fewest_ranks_it_may_have():
    config = recipe(sequence_length=512)
    steady, elastic = gpus(gib=24), gpus(gib=24, min_ranks=8)
    size = replace(
        LARGE, num_parameters=2 * 10**9, num_trained=2 * 10**9, num_layers=8, ffn_size=2048, hidden_size=1024
    )
    assert chosen(size, config, steady).memory.optimizer < chosen(size, config, elastic).memory.optimizer


def test_what_does_not_fit_comes_with_a_change_that_makes_it_fit():
    config = recipe(sequence_length=8192, global_batch_size=32)
    alone = gpus(gib=48)
    fit = choose_layout(LARGE, config, alone)
    assert not fit.chosen.fits
    assert "activation_checkpointing: true" in fit.remedy
    assert choose_layout(LARGE, config, replace(alone, activation_checkpointing=True)).chosen.fits
    hopeless = choose_layout(LARGE, config, gpus(num_nodes=1, gib=2))
    assert "more memory" in hopeless.remedy


def test_the_runner_up_says_why_it_is_not_chosen():
    fit = choose_layout(MEDIUM, recipe(), gpus())
    assert fit.runners_up[0].choice.zero_stage == 2
    assert "exchange gradients in every pass" in fit.runners_up[0].why


def test_recomputation_is_offered_where_it_lets_something_fit():
    config = recipe(sequence_length=8192, global_batch_size=32)
    fit = choose_layout(LARGE, config, gpus(gib=48))
    assert not fit.chosen.fits
    (offered,) = fit.runners_up
    assert offered.choice.activation_checkpointing and not offered.choice.offload_optimizer
    assert offered.why.startswith("it fits, and the layers' forward pass")
    settled = apply_choice(gpus(gib=48), offered.choice)
    assert settled.activation_checkpointing
    assert choose_layout(LARGE, config, settled).chosen.fits


def test_recomputation_is_offered_where_a_pass_gets_more_sequences():
    fit = choose_layout(LARGE, recipe(), gpus(gib=80, zero_stage=3))
    assert fit.chosen.fits
    more = [other for other in fit.runners_up if other.choice.activation_checkpointing]
    assert [other.choice.micro_batch_size > fit.chosen.micro_batch_size for other in more] == [True]
    assert f"{more[0].choice.micro_batch_size} sequences a pass instead of {fit.chosen.micro_batch_size}" in more[0].why


def test_an_optimizer_on_the_host_is_offered_where_a_single_gpu_cannot_hold_it():
    alone = place(PoolConfig(), [Node("a", 64, 1, 2**40, "H100", 80 * GIB)], wandb=None)
    size, config = replace(LARGE, num_parameters=4 * 10**9, num_trained=4 * 10**9), recipe(sequence_length=512)
    fit = choose_layout(size, config, alone)
    assert not fit.chosen.fits
    assert [other.choice.offload_optimizer for other in fit.runners_up] == [True]
    assert choose_layout(size, config, apply_choice(alone, fit.runners_up[0].choice)).chosen.fits


def test_what_changes_nothing_is_not_offered():
    fit = choose_layout(MEDIUM, recipe(), gpus(gib=500))
    assert not any(other.choice.activation_checkpointing for other in fit.runners_up)
    on_cpu = place(PoolConfig(), [Node("a", 8, 0, 32 * GIB)], wandb=None)
    assert not any(other.choice.offload_optimizer for other in choose_layout(MEDIUM, recipe(), on_cpu).runners_up)


def test_settling_leaves_nothing_open():
    placement = gpus()
    settled = apply_choice(placement, chosen(MEDIUM, recipe(), placement))
    assert settled.leaves_open == ()
    assert choose_layout(MEDIUM, recipe(), settled).chosen == chosen(MEDIUM, recipe(), placement)


@pytest.mark.parametrize("key", ["zero_quantized_weights", "zero_quantized_gradients"])
@pytest.mark.parametrize("gib", [80, None])
def test_a_quantised_exchange_is_of_stage_3(key, gib):
    config = recipe(**{key: True})
    assert chosen(MEDIUM, config, gpus(gib=gib)).zero_stage == 3
    assert chosen(MEDIUM, config, gpus(gib=gib, zero_stage=3)).zero_stage == 3
    with pytest.raises(ConfigError) as caught:
        choose_layout(MEDIUM, config, gpus(gib=gib, zero_stage=1))
    assert str(caught.value) == (
        f"the recipe sets `{key}`, which ZeRO stage 3 alone can do, and the pool leaves stage 1; set zero_stage: 3 in "
        "the cluster file, or leave the key out"
    )
    assert choose_layout(LARGE, config, gpus(num_nodes=1, gib=2)).remedy


def test_quantised_gradients_go_to_their_owners_alone():
    whole = gpus(zero_stage=3, deepspeed={"zero_optimization": {"reduce_scatter": False}})
    assert chosen(MEDIUM, recipe(zero_quantized_weights=True), whole).zero_stage == 3
    with pytest.raises(ConfigError, match="leave one of the two out"):
        choose_layout(MEDIUM, recipe(zero_quantized_gradients=True), whole)


def test_buffers_that_the_pool_sets_are_part_of_what_must_fit():
    config = recipe(sequence_length=512)
    little, much = (gpus(deepspeed={"zero_optimization": {"reduce_bucket_size": n}}) for n in (10**6, 5 * 10**9))
    assert chosen(LARGE, config, little).zero_stage == 1
    assert chosen(LARGE, config, much).zero_stage > 1
