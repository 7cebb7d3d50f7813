"""First weights: transformers' own distributions, each element the same whatever piece it is drawn with."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from configs.base import UserError
from training.network.build_model import build_model
from training.network.initial_weights import BLOCK_ELEMENTS, InitialWeights

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "gemma3_text": SIZES | {"num_key_value_heads": 2, "head_dim": 16},  # a row of the embedding is set to zero
    "qwen3_moe": SIZES | {"num_experts": 4, "moe_intermediate_size": 32},
    "gpt2": {"n_layer": 2, "n_embd": 64, "n_head": 4},  # output layers get a smaller deviation
    "jamba": SIZES | {"num_key_value_heads": 4, "num_experts": 2},  # constants by element
    # what is not made of constants and independent draws
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2},
    "qwen3_next": SIZES | {"num_experts": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2},
    "apertus": SIZES,  # parameters and buffers that keep the values of their construction
    "openai-gpt": {"n_layer": 2, "n_embd": 64, "n_head": 4},
}


def settings_of(architecture: str) -> PretrainedConfig:
    return AutoConfig.for_model(architecture, vocab_size=500, **ARCHITECTURES[architecture])


def library_model(settings: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(settings))
    return model


def drawn(weights: InitialWeights, name: str, numel: int, *, seed: int = 1) -> torch.Tensor:
    result = torch.full((numel,), torch.nan)
    weights.draw(seed, name, 0, result)
    return result


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_distributions_are_those_of_transformers(architecture: str) -> None:
    settings = settings_of(architecture)
    model, weights = build_model(settings)
    real = library_model(settings)
    assert dict(model.named_parameters()).keys() == dict(real.named_parameters()).keys()
    for name, parameter in real.named_parameters():
        expected, found = parameter.detach().flatten(), drawn(weights, name, parameter.numel())
        deviation = float(expected.std()) if expected.numel() > 1 else 0.0
        if deviation < 1e-7 or not torch.isfinite(found).all():
            assert torch.equal(found, expected), name
            continue
        tolerance = 6 * deviation / expected.numel() ** 0.5
        assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=tolerance), name
        assert float(found.std()) == pytest.approx(deviation, abs=tolerance), name
        # the shape of the distribution: normal tails are longer than uniform ones
        assert float(found.abs().max()) == pytest.approx(float(expected.abs().max()), rel=0.5), name
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), real.buffers(), strict=True))


def test_constants_within_a_tensor_stay_where_they_are() -> None:
    settings = settings_of("gemma3_text")
    _, weights = build_model(settings)
    embedding = drawn(weights, "model.embed_tokens.weight", 500 * 64).view(500, 64)
    assert not embedding[settings.pad_token_id].any() and embedding[1:].any(1).all()


def test_truncated_normals_are_cut_where_transformers_cuts_them() -> None:
    settings = AutoConfig.for_model("modernbert-decoder", vocab_size=500, pad_token_id=0, **SIZES)
    _, weights = build_model(settings)
    real = {name: parameter.detach() for name, parameter in library_model(settings).named_parameters()}
    for name, parameter in real.items():
        if parameter.ndim > 1:
            found, cutoff = drawn(weights, name, parameter.numel()), float(parameter.abs().max())
            assert float(found.abs().max()) == pytest.approx(cutoff, rel=0.1), name
            assert float(found.std()) == pytest.approx(float(parameter.std()), rel=0.05), name


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_any_piece_has_the_elements_of_the_whole(architecture: str) -> None:
    model, weights = build_model(settings_of(architecture))
    for name, parameter in model.named_parameters():
        whole, cut = drawn(weights, name, parameter.numel()), parameter.numel() // 3 + 1
        piece = torch.empty(parameter.numel() - cut)
        weights.draw(1, name, cut, piece)
        assert torch.equal(piece, whole[cut:]), name
        rounded = torch.empty(parameter.numel(), dtype=torch.bfloat16)
        weights.draw(1, name, 0, rounded)
        assert torch.equal(rounded, whole.bfloat16()), name


def test_pieces_over_many_blocks_and_threads_are_the_same() -> None:
    settings = AutoConfig.for_model("llama", vocab_size=3 * BLOCK_ELEMENTS // 64 + 5, **SIZES)
    _, weights = build_model(settings)
    name, numel = "model.embed_tokens.weight", settings.vocab_size * 64
    whole = drawn(weights, name, numel)
    for offset, length in ((0, 1), (BLOCK_ELEMENTS - 1, 2), (5, 2 * BLOCK_ELEMENTS), (numel - 7, 7)):
        piece = torch.empty(length)
        weights.draw(1, name, offset, piece)
        assert torch.equal(piece, whole[offset : offset + length])
    blocks = whole[: 3 * BLOCK_ELEMENTS].view(3, -1)
    assert float(torch.corrcoef(blocks)[0, 1:].abs().max()) < 0.02, "each block has numbers of its own"


def test_seeds_and_parameters_have_numbers_of_their_own() -> None:
    _, weights = build_model(settings_of("llama"))
    query, key = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(drawn(weights, query, 4096), drawn(weights, query, 4096))
    assert not torch.equal(drawn(weights, query, 4096), drawn(weights, key, 4096))
    assert not torch.equal(drawn(weights, query, 4096), drawn(weights, query, 4096, seed=2))


def test_drawing_leaves_the_generator_of_pytorch_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model, weights = build_model(settings_of("mamba"))
    for name, parameter in model.named_parameters():
        drawn(weights, name, parameter.numel())
    assert torch.equal(torch.rand(4), expected)


def test_the_numbers_are_these() -> None:
    """A change of any of them is a change of what is made: the version of the stage has to rise with it."""
    _, weights = build_model(settings_of("llama"))
    found = drawn(weights, "model.layers.0.self_attn.q_proj.weight", 3, seed=0)
    assert found.tolist() == pytest.approx([-0.001205944106914103, 0.010566087439656258, 0.017297888174653053])


OUTPUTS = {
    "llama": {"self_attn.o_proj.weight", "mlp.down_proj.weight"},
    "qwen3_moe": {"self_attn.o_proj.weight", "mlp.experts.down_proj"},
    "gpt_neox": {"attention.dense.weight", "mlp.dense_4h_to_h.weight"},
    "phi": {"self_attn.dense.weight", "mlp.fc2.weight"},
    "olmo2": {"self_attn.o_proj.weight", "mlp.down_proj.weight"},
}


@pytest.mark.parametrize("architecture", OUTPUTS)
def test_only_what_writes_to_the_residual_stream_is_scaled_with_depth(architecture: str) -> None:
    settings = AutoConfig.for_model(architecture, vocab_size=500, **ARCHITECTURES.get(architecture, SIZES))
    model, plain = build_model(settings)
    _, scaled = build_model(settings)
    scaled.scale_residual_outputs(2)
    changed = set()
    for name, parameter in model.named_parameters():
        before, after = drawn(plain, name, parameter.numel()), drawn(scaled, name, parameter.numel())
        if not torch.equal(before, after):
            changed.add(name.partition("layers.")[2].partition(".")[2])
            torch.testing.assert_close(after, before / 2)  # 1 / sqrt(2 x 2)
            piece = torch.empty(7)
            scaled.draw(1, name, 3, piece)
            assert torch.equal(piece, after[3:10])
    assert changed == OUTPUTS[architecture]


@pytest.mark.parametrize(
    ("architecture", "reason"), [("gpt2", "a rule of its own"), ("mamba", "by a name that is known")]
)
def test_an_architecture_that_cannot_be_scaled_with_depth_is_refused(architecture: str, reason: str) -> None:
    _, weights = build_model(settings_of(architecture))
    with pytest.raises(UserError, match=reason):
        weights.scale_residual_outputs(2)
