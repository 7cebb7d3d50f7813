"""Builds the causal language model of a recipe with transformers."""

from collections.abc import Callable
from copy import deepcopy
from difflib import get_close_matches

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.base import UserError
from configs.training.train import TrainConfig
from training.network.initial_weights import InitialWeights, build_on_meta_device
from training.network.model_rules import OLD_ROPE_KEYS, explain_rope_key, find_rule_problems


def make_model_config(
    config: TrainConfig, *, vocab_size: int, eos_id: int, pad_id: int | None, bos_id: int | None = None
) -> PretrainedConfig:
    """Make the transformers configuration. Raises UserError on an architecture or a key that transformers lacks.

    Without a piece that begins a text, the one that ends a text stands before the next, and so begins it.
    """
    model = config.model
    for problem in find_rule_problems(config, vocab_size=vocab_size):
        raise UserError(problem.message)
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
        "bos_token_id": eos_id if bos_id is None else bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    } | model.overrides
    try:
        result: PretrainedConfig = AutoConfig.for_model(model.architecture, **keys)
        known = set(type(result)().to_dict()) | set(type(result).attribute_map)
    except (TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        raise UserError(f"transformers refuses the model of this recipe: {' '.join(str(error).split())}") from error
    if unknown := sorted(model.overrides.keys() - known):
        if unknown[0] in OLD_ROPE_KEYS and "rope_parameters" in known:
            raise UserError(explain_rope_key(model, unknown[0]))
        close = get_close_matches(unknown[0], known, n=3)
        raise UserError(
            f"model.overrides.{unknown[0]} is no key of {model.architecture}'s configuration"
            + (f"; did you mean {' or '.join(close)}?" if close else "")
        )
    _check_fields(config, known)
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


def import_architecture(name: str) -> None:
    """Import the modules of an architecture, which transformers puts off until their first use."""
    AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(name))]


def build_model(
    config: PretrainedConfig, *, activation_checkpointing: bool = False
) -> tuple[PreTrainedModel, InitialWeights]:
    """Build a model whose parameters have no memory (they are on the meta device), and what draws its first weights.

    With `activation_checkpointing` each layer's activations are recomputed in the backward pass. Raises UserError on
    what does not fit together.
    """

    def build() -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(config))  # which it and we change
        model.config.use_cache = False
        return model

    try:
        model = build_on_meta_device(build)
        weights = InitialWeights(build, model)
    except (ValueError, KeyError, AssertionError, RuntimeError, ArithmeticError) as error:
        raise UserError(
            f"transformers cannot build the model of this recipe: {' '.join(str(error).split())}"
        ) from error
    if activation_checkpointing:
        _checkpoint_activations(model)
    return model, weights


def allocate(module: torch.nn.Module, make: Callable[[torch.nn.Parameter], torch.nn.Parameter]) -> None:
    """Replace each parameter of a module by the one that `make` makes of it; shared ones stay shared."""
    made: dict[int, torch.nn.Parameter] = {}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = make(parameter)
                child._parameters[name] = made[id(parameter)]


def build_in_memory(config: PretrainedConfig, *, seed: int) -> PreTrainedModel:
    """Build a model in host memory, in fp32, with its first weights. Raises UserError as `build_model` does."""
    model, weights = build_model(config)
    allocate(model, lambda parameter: torch.nn.Parameter(torch.empty(parameter.shape, dtype=torch.float32)))
    for name, parameter in model.named_parameters():
        weights.draw(seed, name, 0, parameter.data.view(-1))
    return model


def _checkpoint_activations(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"the pool sets activation_checkpointing, which transformers lacks for architecture "
            f"{model.config.model_type!r}; leave it out"
        )
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:  # its name in transformers 5 before that
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
