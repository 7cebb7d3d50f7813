from dataclasses import replace

import pytest

from cluster.machines import GIB, Node
from cluster.placement import Placement, place
from configs.pools import PoolConfig
from tests.training.ranks import tiny_config
from training.network.build_model import build_model
from training.network.model_config import make_model_config
from training.sizing.recipe_size import find_parameters, measure_model, settle_placement
from training.zero.optimizers import freeze_parameters, make_parameter_groups


def model(**changes) -> dict:
    return {"hidden_size": 64, "intermediate_size": 96, "num_layers": 2, "num_attention_heads": 4} | changes


def placed(gib: float, **pool) -> Placement:
    return place(PoolConfig(**pool), [Node("a", 16, 8, 2**40, "H100", int(gib * GIB))], wandb=None)


def test_a_known_family_is_counted_without_building_it():
    found = find_parameters(tiny_config(model=model()), vocab_size=100)
    assert not found.built
    assert found.num_parameters == 2 * 100 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64


def test_another_family_is_built_without_memory():
    config = tiny_config(model=model(architecture="gpt_neox"))
    found = find_parameters(config, vocab_size=100)
    assert found.built
    size = measure_model(found, config)
    assert (size.num_layers, size.num_heads, size.head_dim, size.hidden_size) == (2, 4, 16, 64)
    assert size.num_parameters == sum(parts := [4 * 64 * 64, 2 * 64 * 96]) * 2 + found.num_parameters - 2 * sum(parts)


def test_frozen_parameters_are_those_that_the_patterns_match():
    config = tiny_config(model=model(), freeze=("model.layers.*", "model.norm.weight"))
    size = measure_model(find_parameters(config, vocab_size=100), config)
    assert size.num_trained == 2 * 100 * 64
    assert size.num_parameters > size.num_trained


def test_muon_updates_the_matrices_inside_the_layers():
    config = tiny_config(model=model(), optimizer={"kind": "muon", "learning_rate": 0.01})
    size = measure_model(find_parameters(config, vocab_size=100), config)
    assert size.num_muon == 2 * (4 * 64 * 64 + 3 * 64 * 96)


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe", "gpt_neox", "modernbert-decoder"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_trained_and_what_muon_updates_is_what_the_optimizer_gets(architecture: str, tied: bool) -> None:
    config = tiny_config(
        model=model(architecture=architecture, tie_word_embeddings=tied),
        optimizer={"kind": "muon", "learning_rate": 0.01},
        freeze=("*layers.1.*",),
    )
    built, _ = build_model(make_model_config(config, vocab_size=100, eos_id=1, pad_id=2))
    freeze_parameters(built, config.freeze)
    groups = make_parameter_groups(built, config.optimizer)
    sizes = {
        is_muon: [p.numel() for g in groups if g["muon"] is is_muon for p in g["params"]] for is_muon in (False, True)
    }
    matrices = [p.shape[-2] * p.shape[-1] for g in groups if g["muon"] for p in g["params"]]
    size = measure_model(find_parameters(config, vocab_size=100), config)
    assert size.num_muon == sum(sizes[True]) > 0
    assert size.largest_muon == max(sizes[True])
    assert size.largest_muon_matrix == max(matrices)
    assert size.num_trained == sum(sizes[True]) + sum(sizes[False]) < size.num_parameters


def test_a_mixture_is_as_wide_as_the_experts_that_work_on_a_token():
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    config = tiny_config(model=model(architecture="qwen3_moe", overrides=experts))
    assert measure_model(find_parameters(config, vocab_size=100), config).ffn_size == 80


def test_what_a_pool_leaves_open_is_settled_by_what_fits():
    placement = settle_placement(placed(80), tiny_config(model=model()), vocab_size=100, store=None)
    assert placement.leaves_open == ()
    assert (placement.zero_stage, placement.micro_batch_size) == (1, 1)  # 5 sequences on 8 ranks


@pytest.mark.parametrize("fixed", [{"zero_stage": 0, "micro_batch_size": 3}])
def test_what_it_fixes_is_left_alone(fixed):
    placement = placed(80, **fixed)
    assert settle_placement(placement, tiny_config(), vocab_size=100, store=None) is placement


def test_without_knowledge_of_the_memory_the_defaults_stand():
    unknown = replace(placed(80), memory_bytes_per_rank=None)
    placement = settle_placement(unknown, tiny_config(), vocab_size=100, store=None)
    assert (placement.zero_stage, placement.micro_batch_size) == (1, 8)
