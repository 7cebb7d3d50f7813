"""The network that a recipe describes, and what is said when it describes none."""

import re
import shutil
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from configs.base import UserError
from tests.training.ranks import VOCAB, tiny_config
from training.network.build_model import build_model, compile_layers, make_model_config

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_attention_heads": 3}


def built(seed: int = 0, options: dict[str, Any] | None = None, **model: Any) -> PreTrainedModel:
    config = tiny_config(model=SIZES | model)
    return build_model(make_model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2), seed=seed, **(options or {}))


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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_the_one_asked_for(attention: str) -> None:
    assert built(options={"attention": attention}).config._attn_implementation == attention


@pytest.mark.parametrize(
    ("architecture", "options", "says"),
    [
        ("gemma2", {"attention": "sdpa"}, "attention is 'sdpa', which transformers lacks for architecture 'gemma2'"),
        ("jetmoe", {"activation_checkpointing": True}, "activation_checkpointing, which transformers lacks"),
    ],
)
def test_what_an_architecture_lacks_is_one_line(architecture: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        built(options=options, architecture=architecture)
    assert "\n" not in str(caught.value)


def test_flex_attention_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="only on a GPU; choose sdpa"):
        built(options={"attention": "flex_attention"})


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_give_the_numbers_of_eager_ones() -> None:
    model, ids = built(num_layers=1), torch.arange(16)[None]
    results = []
    for compiled in (False, True):
        if compiled:
            compile_layers(model)
        logits = model(input_ids=ids).logits
        logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
        model.zero_grad()
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    assert all(layer._compiled_call_impl is not None for layer in model.model.layers)


def test_compiling_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="there is no 'no-such-compiler'; install one"):
        compile_layers(built())
