"""The network that a recipe describes, and what is said when it describes none."""

import re
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from configs.base import UserError
from tests.training.ranks import VOCAB, tiny_config
from training.network.build_model import build_in_memory, build_model
from training.network.model_config import make_model_config

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_attention_heads": 3}


def settings_of(**model: Any) -> PretrainedConfig:
    return make_model_config(tiny_config(model=SIZES | model), vocab_size=VOCAB, eos_id=1, pad_id=2)


def built(seed: int = 0, **model: Any) -> PreTrainedModel:
    return build_in_memory(settings_of(**model), seed=seed)


def error_of(**model: Any) -> str:
    with pytest.raises(UserError) as caught:
        built(**model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "olmo2"])
def test_architectures_build_with_the_sizes_of_the_recipe(architecture: str) -> None:
    model = built(architecture=architecture)
    settings = model.config
    assert settings.model_type == architecture
    assert (settings.hidden_size, settings.intermediate_size, settings.num_hidden_layers) == (24, 40, 2)
    assert (settings.vocab_size, settings.max_position_embeddings) == (VOCAB, 16)
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 1, 2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(input_ids=torch.arange(16)[None]).logits.shape == (1, 16, VOCAB)


def test_a_model_cannot_see_what_comes_after() -> None:
    model, ids = built().eval(), torch.arange(16)[None]
    changed = ids.clone()
    changed[0, 10:] = 99
    with torch.inference_mode():
        before, after = model(input_ids=ids).logits[0], model(input_ids=changed).logits[0]
    assert torch.equal(before[:10], after[:10])
    assert not torch.equal(before[10:], after[10:])


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    one = built(seed=1).state_dict()
    same, other = built(seed=1).state_dict(), built(seed=2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_overrides_reach_the_configuration() -> None:
    model = built(overrides={"rms_norm_eps": 0.5, "vocab_size": 384})
    assert (model.config.rms_norm_eps, model.config.vocab_size) == (0.5, 384)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"architecture": "lama"}, "did you mean llama"),
        ({"architecture": "no such thing"}, "see its list of model types"),
        (
            {"overrides": {"rms_norm_epsilon": 1}},
            "model.overrides.rms_norm_epsilon is no key .* did you mean rms_norm_eps",
        ),
        ({"overrides": {"xyzzy": 1}}, "model.overrides.xyzzy is no key of llama's"),
        ({"overrides": {"attention_dropout": "x"}}, "attention_dropout"),
        ({"overrides": {"hidden_act": "nope"}}, "nope"),
        ({"overrides": {"vocab_size": 10}}, "the tokenizer has 320; leave"),
        ({"num_attention_heads": 5}, r"hidden size \(24\) is not a multiple of the number of attention heads \(5\)"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "no multiple of model.num_key_value_heads"),
        ({"hidden_size": 21}, "even rotary dimension"),
    ],
)
def test_a_model_that_cannot_be_is_one_line(model: dict[str, Any], says: str) -> None:
    assert re.search(says, error_of(**model))


def test_a_model_is_built_without_memory_but_for_its_buffers() -> None:
    model, _ = build_model(settings_of())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    real = built()
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in real.named_buffers()] != []
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), real.buffers(), strict=True))


def test_recomputation_that_an_architecture_lacks_is_one_line() -> None:
    with pytest.raises(UserError, match="activation_checkpointing, which transformers lacks") as caught:
        build_model(settings_of(architecture="jetmoe"), activation_checkpointing=True)
    assert "\n" not in str(caught.value)
