"""FLOPs of a token against the matrix products of real models, and devices by name."""

from typing import Any

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from training.sizing.flops import executed_flops_per_token, flops_per_token, mfu

TINY: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "olmo2": {},
    "gemma3_text": {"head_dim": 24, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "mistral": {"sliding_window": 8},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "mlp_only_layers": [0]},
    "qwen2_moe": {"num_experts": 8, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 72},
    "gpt2": {"n_inner": 96},
    "gpt_neox": {},
}


def build(name: str) -> PreTrainedModel:
    config = AutoConfig.for_model(name.split(",")[0], **(TINY | MODELS[name]))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model


def estimate(model: PreTrainedModel, *, sequence_length: int) -> float:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    flops = flops_per_token(model.config.to_dict(), shapes, sequence_length=sequence_length)
    assert flops is not None
    return flops


@pytest.mark.parametrize(
    "name", [name for name in MODELS if "moe" not in name and "sliding_window" not in MODELS[name]]
)
def test_flops_are_those_of_the_matrix_products_that_pytorch_counts(name: str) -> None:
    model = build(name)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, 32, dtype=torch.long), use_cache=False).logits.sum().backward()
    # The first layer's input is an embedding: it has a gradient, so its products all count, forward and backward.
    # Angles of rotary position embeddings, which the formula leaves out, are the rest.
    assert counter.get_total_flops() == pytest.approx(32 * estimate(model, sequence_length=32), rel=1e-3)


def matrices(model: PreTrainedModel) -> dict[str, int]:
    """Elements of each linear layer."""
    return {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


@pytest.mark.parametrize(("name", "windows"), [("gemma3_text", [8, 8, 32]), ("mistral", [8, 8, 8])])
def test_a_sliding_layer_attends_to_its_window(name: str, windows: list[int]) -> None:
    model = build(name)
    width = 4 * (24 if name == "gemma3_text" else 16)
    expected = 6 * sum(matrices(model).values()) + 12 * width * sum(windows)
    assert estimate(model, sequence_length=32) == expected
    assert estimate(model, sequence_length=4) == 6 * sum(matrices(model).values()) + 12 * width * 12


def test_experts_count_as_far_as_they_work_on_a_token() -> None:
    attention = 3 * 12 * 64 * 32
    # Two of eight experts with three matrices each in two layers, two routers, and a plain layer.
    active = 2 * (2 * 3 * 64 * 40 + 8 * 64) + 3 * 64 * 96 + 3 * (64 * 64 * 2 + 64 * 32 * 2) + 100 * 64
    assert estimate(build("qwen3_moe"), sequence_length=32) == 6 * active + attention


def test_a_shared_expert_works_on_every_token() -> None:
    config = AutoConfig.for_model("qwen2_moe", **TINY, **MODELS["qwen2_moe"]).to_dict()
    layer = "model.layers.0.mlp."
    routed, shared = {f"{layer}experts.down_proj": (8, 64, 96)}, {f"{layer}shared_expert.down_proj.weight": (64, 72)}
    without = flops_per_token(config, {}, sequence_length=32)
    assert without is not None
    assert flops_per_token(config, routed, sequence_length=32) == without + 6 * 2 * 64 * 96
    assert flops_per_token(config, routed | shared, sequence_length=32) == without + 6 * (2 * 64 * 96 + 64 * 72)


def test_a_llama_of_a_billion_parameters_takes_what_paper_and_pencil_give() -> None:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # A layer: 2 x 2048^2 + 2 x 2048 x 512 + 3 x 2048 x 8192 = 60,817,408; the output: 128256 x 2048 = 262,668,288.
    # 6 x (16 x 60,817,408 + 262,668,288) + 12 x 16 x 32 x 64 x 4096
    assert estimate(model, sequence_length=4096) == 7_414_480_896 + 1_610_612_736


def executed(model: PreTrainedModel, *, attention: str, recomputes: bool, sequence_length: int = 32) -> float:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    flops = executed_flops_per_token(
        model.config.to_dict(),
        shapes,
        sequence_length=sequence_length,
        attention=attention,
        recomputes=recomputes,
    )
    assert flops is not None
    return flops


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_what_is_executed_is_what_pytorch_counts_with_and_without_recomputation(name: str, recomputes: bool) -> None:
    model = build(name).train()
    if recomputes:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # PyTorch would leave out the last product of a layer, whose output nothing in its backward pass needs
    with set_checkpoint_early_stop(False), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, 32, dtype=torch.long), use_cache=False).logits.sum().backward()
    expected = 32 * executed(model, attention="eager", recomputes=recomputes)
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_recomputing_takes_four_thirds_of_the_products_in_layers() -> None:
    once, twice = (executed(build("llama"), attention="eager", recomputes=r, sequence_length=1) for r in (False, True))
    output, pairs = 6 * 100 * 64, 12 * 3 * 64
    assert twice - output == pytest.approx((once - output) * 4 / 3)
    assert pairs < 0.02 * once


def test_attention_without_a_mask_computes_the_causal_half_and_its_weights_twice() -> None:
    model, length = build("llama"), 64
    eager, masked, packed = (
        executed(model, attention=kind, recomputes=False, sequence_length=length)
        for kind in ("eager", "sdpa", "varlen")
    )
    # Three layers, 64 wide, by pencil: a product of queries and keys is 2 x 64 FLOPs a pair of positions.
    pair = 3 * 2 * 64
    whole, half = length, (length + 1) / 2  # positions that one attends to, on average
    assert masked - eager == pair * whole  # one product more, for the weights again
    assert eager - packed == pair * (6 * whole - 7 * half)


def test_a_window_bounds_what_attention_without_a_mask_computes() -> None:
    model, width = build("mistral"), 3 * 64
    windowed = executed(model, attention="varlen", recomputes=False)
    masked = executed(model, attention="sdpa", recomputes=False)
    seen = sum(min(position + 1, 8) for position in range(32)) / 32
    assert masked - windowed == pytest.approx(14 * width * (32 - seen))


def test_flops_are_unknown_for_attention_and_experts_that_the_formula_does_not_know() -> None:
    config = build("llama").config.to_dict()
    assert flops_per_token(config | {"layer_types": ["indexed_attention"]}, {}, sequence_length=32) is None
    assert flops_per_token(config, {"layers.0.mlp.experts.down_proj": (8, 64, 96)}, sequence_length=32) is None


def test_mfu_is_the_share_of_the_peak_or_unknown() -> None:
    assert mfu(50_000, flops_per_token=9e9, peak=900e12) == pytest.approx(0.5)
    assert mfu(50_000, flops_per_token=9e9, peak=None) is None
    assert mfu(50_000, flops_per_token=None, peak=900e12) is None
