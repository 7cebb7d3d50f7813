"""Builds the causal language model of a recipe with transformers."""

from collections.abc import Callable
from copy import deepcopy

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from configs.base import UserError
from training.network.initial_weights import InitialWeights, build_on_meta_device
from training.network.model_config import explain_unknown_word


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
            explain_unknown_word(config, error)
            or f"transformers cannot build the model of this recipe: {' '.join(str(error).split())}"
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
