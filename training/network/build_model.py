"""Builds the causal language model of a recipe with transformers."""

import os
import shutil
import sys
from copy import deepcopy
from difflib import get_close_matches

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.base import UserError
from configs.training import TrainConfig


def make_model_config(config: TrainConfig, *, vocab_size: int, eos_id: int, pad_id: int) -> PretrainedConfig:
    """Make the transformers configuration. Raises UserError on an architecture or a key that transformers lacks."""
    model = config.model
    if model.architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        close = get_close_matches(model.architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=3)
        raise UserError(
            f"model.architecture is {model.architecture!r}, which transformers has no causal language model for"
            + (f"; did you mean {' or '.join(close)}?" if close else "; see its list of model types")
        )
    keys = {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads or model.num_attention_heads,
        "tie_word_embeddings": model.tie_word_embeddings,
        "max_position_embeddings": config.sequence_length,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    } | model.overrides
    try:
        result: PretrainedConfig = AutoConfig.for_model(model.architecture, **keys)
        known = set(type(result)().to_dict()) | set(type(result).attribute_map)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UserError(f"transformers refuses the model of this recipe: {' '.join(str(error).split())}") from error
    if unknown := sorted(model.overrides.keys() - known):
        close = get_close_matches(unknown[0], known, n=3)
        raise UserError(
            f"model.overrides.{unknown[0]} is no key of {model.architecture}'s configuration"
            + (f"; did you mean {' or '.join(close)}?" if close else "")
        )
    _check_fields(config, known)
    _check_sizes(config, result, vocab_size)
    return result


def _check_fields(config: TrainConfig, known: set[str]) -> None:
    """Raise UserError on an architecture that would ignore a key of the recipe."""
    given = {"hidden_size", "intermediate_size", "num_attention_heads"}
    given |= {"num_key_value_heads"} if config.model.num_key_value_heads else set()
    if ignored := sorted(given - known):
        raise UserError(
            f"{config.model.architecture}'s configuration has no {ignored[0]}, so that key of the recipe would be "
            "ignored; choose an architecture that has it, such as llama"
        )


def _check_sizes(config: TrainConfig, result: PretrainedConfig, vocab_size: int) -> None:
    """Raise UserError on sizes that transformers accepts, and fails on in the first forward pass."""
    heads, shared = config.model.num_attention_heads, config.model.num_key_value_heads or 1
    if heads % shared:
        raise UserError(
            f"model.num_attention_heads is {heads}, which is no multiple of model.num_key_value_heads, {shared}"
        )
    if result.vocab_size < vocab_size:
        raise UserError(
            f"model.overrides.vocab_size is {result.vocab_size}, but the tokenizer has {vocab_size}; leave it out"
        )


def import_architecture(name: str) -> None:
    """Import the modules of an architecture, which transformers puts off until their first use."""
    AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(name))]


def build_model(
    config: PretrainedConfig, *, seed: int, attention: str | None = None, activation_checkpointing: bool = False
) -> PreTrainedModel:
    """Build a freshly initialised model in fp32, the same on every rank.

    `attention` names one of transformers' implementations, or leaves the choice to it; with `activation_checkpointing`
    each layer's activations are recomputed in the backward pass. Raises UserError on what does not fit together.
    """
    torch.manual_seed(seed)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(config))  # which it and we change
    except (ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise UserError(
            f"transformers cannot build the model of this recipe: {' '.join(str(error).split())}"
        ) from error
    model.config.use_cache = False
    _check_causal(model)
    if attention is not None:  # only now: flex attention would have to be compiled for the check
        _set_attention(model, attention)
    if activation_checkpointing:
        _checkpoint_activations(model)
    return model


def _set_attention(model: PreTrainedModel, attention: str) -> None:
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise UserError(
            "the pool's attention is 'flex_attention', which PyTorch can train with only on a GPU; choose sdpa or eager"
        )
    try:
        model.set_attn_implementation(attention)
    except ValueError as error:
        raise UserError(
            f"the pool's attention is {attention!r}, which transformers lacks for architecture "
            f"{model.config.model_type!r}; choose another, such as eager"
        ) from error


def _checkpoint_activations(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"the pool sets activation_checkpointing, which transformers lacks for architecture "
            f"{model.config.model_type!r}; leave it out"
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer in place, at its first call. Raises UserError without a C++ compiler on the CPU."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise UserError(
            f"the pool sets `compile`, which needs a C++ compiler on the CPU, and there is no {compiler!r}; "
            "install one, name it in the environment variable CXX, or set `compile: false`"
        )
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(dynamic=False)


@torch.no_grad()
def _check_causal(model: PreTrainedModel) -> None:
    """Raise UserError on a model that attends to later tokens, as encoders do: its losses would mean nothing."""
    model.eval()
    ids = torch.arange(8)[None] % model.config.vocab_size
    other = ids.clone()
    other[0, -1] = model.config.vocab_size - 1
    seen, unseen = model(input_ids=ids).logits[:, :-1], model(input_ids=other).logits[:, :-1]
    model.train()
    if not torch.allclose(seen, unseen, atol=1e-5):
        raise UserError(
            f"architecture {model.config.model_type!r} looks at tokens to come, so it is no decoder; choose a decoder, "
            "such as llama, or see whether `overrides: {is_decoder: true}` makes it one"
        )
