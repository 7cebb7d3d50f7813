"""What the table says of a model, against what transformers and a pass say."""

import re
import sys
from typing import Any

import pytest
import torch

from configs.base import UserError
from configs.training.train import TrainConfig
from tests.training.ranks import tiny_config
from training.network.model_config import make_model_config
from training.network.probes import probe_network
from training.sizing.model_check import check_with_transformers, find_table_problems, is_settled

SIZES = {"hidden_size": 48, "intermediate_size": 72, "num_layers": 2, "num_attention_heads": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
NORM = {"rms_norm_eps": 1e-6, "initializer_range": 0.01, "max_position_embeddings": 128}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 12}


def config_of(*, freeze: tuple[str, ...] = (), precision: str = "fp32", **model: Any) -> TrainConfig:
    return tiny_config(model=SIZES | model, freeze=freeze, precision=precision)


def told_by_table(config: TrainConfig) -> list[str]:
    return [problem.message for problem in find_table_problems(config, vocab_size=320)]


def try_to_build(config: TrainConfig) -> None:
    settings = make_model_config(config, vocab_size=320, eos_id=1, pad_id=2)
    probe_network(settings, attention="eager", device=torch.device("cpu"), dtype=torch.float32, minds_router=True)


@pytest.mark.parametrize(
    ("architecture", "model"),
    [
        ("llama", {"overrides": ROPE | NORM | {"attention_bias": True, "mlp_bias": True, "hidden_act": "relu"}}),
        ("llama", {"num_key_value_heads": 2, "overrides": {"head_dim": 8}}),
        ("mistral", {"num_attention_heads": 5, "overrides": ROPE | NORM | {"head_dim": 8, "sliding_window": 8}}),
        ("qwen2", {"overrides": ROPE | NORM | {"hidden_act": "gelu"}}),
        ("llama", {"overrides": {"rope_parameters": {"rope_theta": 5e5}}}),
        ("qwen3", {"num_attention_heads": 5, "overrides": ROPE | NORM | {"attention_bias": True}}),
        ("qwen3", {"overrides": {"head_dim": 8}}),
        ("olmo2", {"overrides": ROPE | NORM | {"attention_bias": True, "hidden_act": "gelu_pytorch_tanh"}}),
        ("gemma", {"num_attention_heads": 5, "overrides": ROPE | NORM | {"head_dim": 8, "attention_bias": True}}),
        ("gemma3_text", {"overrides": NORM | CAPS | {"head_dim": 8, "sliding_window": 8, "hidden_activation": "silu"}}),
        ("qwen3_moe", {"overrides": ROPE | NORM | EXPERTS | {"norm_topk_prob": True, "decoder_sparse_step": 2}}),
        ("qwen3_moe", {"overrides": EXPERTS | {"attention_bias": True, "moe_intermediate_size": 20}}),
    ],
)
def test_what_the_table_settles_can_be_built_and_passed(architecture: str, model: dict[str, Any]) -> None:
    config = config_of(architecture=architecture, **model)
    assert (told_by_table(config), is_settled(config)) == ([], True)
    try_to_build(config)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"num_attention_heads": 5}, "which does not divide model.hidden_size, 48; choose heads that divide it$"),
        ({"architecture": "mistral", "num_attention_heads": 5}, "or give the size of a head as model.overrides.head_"),
        ({"num_attention_heads": 5, "overrides": {"head_dim": 8}}, "does not divide model.hidden_size, 48"),
        ({"architecture": "qwen2", "num_attention_heads": 5}, "choose heads that divide it$"),
        ({"architecture": "gemma3_text", "num_attention_heads": 5}, "choose heads that divide it$"),
        ({"num_attention_heads": 16}, r"a head is 3 wide \(model.hidden_size 48 / 16 heads\)"),
        ({"architecture": "gemma", "overrides": {"head_dim": 7}}, "a head is 7 wide, and"),
        ({"num_key_value_heads": 3}, "4, which is no multiple of model.num_key_value_heads, 3"),
        ({"overrides": {"rope_theta": 5e5}}, r"write rope_parameters: \{rope_type: default, rope_theta: 500000.0\}"),
        (
            {"overrides": {"rope_scaling": {"type": "linear", "factor": 2.0}}},
            r"write rope_parameters: \{rope_type: linear, rope_theta: 10000, factor: 2.0\}",
        ),
        ({"architecture": "qwen3_moe", "overrides": EXPERTS | {"num_experts": 1}}, "per_tok is 2, more than num_exper"),
        (
            {"architecture": "qwen3_moe", "overrides": {"num_experts": 4}},
            "per_tok is 8 in qwen3_moe if left out, more than num_experts, 4",
        ),
        ({"architecture": "qwen3_moe", "overrides": EXPERTS | {"decoder_sparse_step": 0}}, "is 0, and must be 1 or m"),
        ({"architecture": "qwen3_moe", "overrides": EXPERTS | {"moe_intermediate_size": 18}}, "a multiple of 4"),
    ],
)
def test_what_the_table_refuses_cannot_be_built_or_passed(model: dict[str, Any], says: str) -> None:
    config = config_of(**model)
    (told,) = told_by_table(config)
    assert re.search(says, told)
    with pytest.raises(UserError):
        try_to_build(config)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"architecture": "mistral", "num_attention_heads": 7}, "7, which does not divide"),  # its heads would be cut
        ({"overrides": {"max_position_embeddings": 8}}, "is 8, and sequence_length 16"),
        ({"overrides": {"vocab_size": 100}}, "is 100, but the tokenizer has 320"),
        ({"overrides": {"num_hidden_layers": 3}}, "num_hidden_layers is model.num_layers in a recipe; set that"),
        ({"overrides": {"eos_token_id": 3}}, "eos_token_id follows from the tokenizer"),
        ({"overrides": {"attention_dropout": 1.5}}, "is 1.5, and must be from 0 to below 1"),
        (
            {"architecture": "qwen3_moe", "overrides": EXPERTS | {"moe_intermediate_size": 20}, "precision": "bf16"},
            "model.overrides.moe_intermediate_size is 20, .* in bf16 needs a multiple of 8",
        ),
        ({"freeze": ("model.layer.*",)}, "no parameter is named like 'model.layer"),
        ({"freeze": ("model.*", "lm_head*")}, "nothing is left to train"),
    ],
)
def test_what_would_train_and_not_as_was_meant_is_refused_by_the_table(model: dict[str, Any], says: str) -> None:
    (told,) = told_by_table(config_of(**model))
    assert re.search(says, told)


@pytest.mark.parametrize(
    "model",
    [
        {"architecture": "gpt_neox"},
        {"overrides": {"layer_types": ["full_attention"] * 2}},  # no key of llama's
        {"overrides": {"hidden_act": "mish"}},
        {"overrides": {"rms_norm_eps": 1}},
        {"overrides": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}},
    ],
)
def test_what_the_table_does_not_know_is_left_to_transformers(model: dict[str, Any]) -> None:
    config = config_of(**model)
    assert (told_by_table(config), is_settled(config)) == ([], False)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"architecture": "lama"}, "did you mean llama"),
        ({"architecture": "mamba"}, "mamba's configuration has no num_attention_heads"),
        ({"architecture": "bert"}, "'bert' looks at tokens to come"),
        ({"architecture": "recurrent_gemma"}, "lets a document see those before it"),
        ({"architecture": "gpt_neox", "num_attention_heads": 5}, "transformers refuses the model of this recipe"),
        ({"architecture": "gpt_neox", "freeze": ("model.*",)}, "no parameter is named like 'model"),
        ({"overrides": {"rms_norm_epsilon": 1e-5}}, "is no key of llama's configuration; did you mean rms_norm_eps"),
        ({"overrides": {"hidden_act": "nope"}}, r"is 'nope', which transformers does not have \(it has: .*silu"),
    ],
)
def test_transformers_refuses_what_the_table_does_not_know(model: dict[str, Any], says: str) -> None:
    config = config_of(**model)
    assert told_by_table(config) == []
    with pytest.raises(UserError, match=says):
        check_with_transformers(config, vocab_size=None)


@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral", "gemma2"])
def test_other_architectures_pass_at_sizes_that_no_machine_here_holds(architecture: str) -> None:
    sizes = {"hidden_size": 4096, "intermediate_size": 16384, "num_layers": 40, "num_attention_heads": 32}
    check_with_transformers(config_of(architecture=architecture, **sizes), vocab_size=100_000)


def test_what_a_configuration_shows_is_refused_before_models_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes twice as long as all before it."""
    monkeypatch.setitem(sys.modules, "training.network.build_model", None)  # so that importing it fails
    with pytest.raises(UserError, match="not divisible by the number of attention heads"):
        check_with_transformers(config_of(architecture="gpt_neox", num_attention_heads=5), vocab_size=320)
