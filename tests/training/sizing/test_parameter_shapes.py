"""Shapes by formula against the models that transformers builds."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from configs.training.model import ModelConfig
from training.sizing.parameter_shapes import known_shapes

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "rope_theta": 5e5}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("qwen3", {"head_dim": 32, "attention_bias": True}),
    ("olmo2", {}),
    ("gemma", {"head_dim": 16}),
    ("gemma3_text", {}),
    ("gemma3_text", {"head_dim": 24}),
    ("qwen3_moe", {}),
    ("qwen3_moe", MOE | {"head_dim": 16, "decoder_sparse_step": 2}),
    ("qwen3_moe", MOE | {"mlp_only_layers": [0]}),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("architecture", "overrides"), MODELS)
def test_shapes_are_those_of_the_model_that_transformers_builds(architecture, overrides, tied):
    sizes = {"hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = ModelConfig(architecture=architecture, num_layers=3, tie_word_embeddings=tied, overrides=overrides, **sizes)
    keys = sizes | {"vocab_size": 90, "num_hidden_layers": 3, "tie_word_embeddings": tied, "pad_token_id": 0}
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **keys | overrides))
    assert known_shapes(model, vocab_size=90) == {n: tuple(p.shape) for n, p in built.named_parameters()}


@pytest.mark.parametrize(
    ("architecture", "overrides"), [("gpt2", {}), ("llama", {"num_experts": 4}), ("llama", {"not_a_key": 1})]
)
def test_what_is_not_known_is_not_guessed(architecture, overrides):
    model = ModelConfig(
        architecture=architecture,
        hidden_size=48,
        intermediate_size=72,
        num_layers=2,
        num_attention_heads=4,
        overrides=overrides,
    )
    assert known_shapes(model, vocab_size=90) is None
