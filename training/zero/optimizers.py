"""The optimizer that a recipe asks for, on the parameters that are trained."""

from typing import Any

import torch
from transformers import PreTrainedModel

from configs.base import UserError
from configs.training.optimizer import OptimizerConfig
from configs.training.train import TrainConfig
from training.zero.config import is_frozen, is_updated_by_muon, why_not_frozen
from training.zero.muon import MuonWithAdamW


def freeze_parameters(model: PreTrainedModel, patterns: tuple[str, ...]) -> None:
    """Take the parameters whose names match out of training. Raises UserError on a pattern that matches nothing."""
    named = dict(model.named_parameters())
    if problem := why_not_frozen(named, patterns):
        raise UserError(problem)
    for name, parameter in named.items():
        parameter.requires_grad = parameter.requires_grad and not is_frozen(name, patterns)


def make_optimizer(model: PreTrainedModel, config: TrainConfig, *, cpu_adam: Any | None) -> torch.optim.Optimizer:
    """Make AdamW, or Muon with AdamW, for the parameters that are trained.

    `cpu_adam` is DeepSpeed's class, where the optimizer's state is in host memory. The learning rate is zero: DeepSpeed
    takes a step of its own to allocate state, and at rate zero that changes no weight.
    """
    settings = config.optimizer
    adamw: dict[str, Any] = {"lr": 0.0, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}
    groups = make_parameter_groups(model, settings)
    if settings.kind == "muon":
        return MuonWithAdamW(groups, momentum=settings.muon_momentum, fused=True, **adamw)
    if cpu_adam is not None:
        optimizer: torch.optim.Optimizer = cpu_adam(groups, adamw_mode=True, **adamw)
        return optimizer
    return torch.optim.AdamW(groups, fused=True, **adamw)


def make_parameter_groups(model: PreTrainedModel, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """Sort the trained parameters into optimizer groups: matrices, vectors, and Muon's matrices.

    A group has its weight decay, its part of the learning rate (`scale`) and whether it is Muon's. Empty ones are left
    out.
    """
    ends = find_embedding_and_output(model)
    muon: list[torch.nn.Parameter] = []
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = getattr(parameter, "ds_shape", parameter.shape)  # in ZeRO-3 the parameter itself is empty
        if settings.kind == "muon" and is_updated_by_muon(shape, is_embedding_or_output=name in ends):
            muon.append(parameter)
        else:
            (matrices if len(shape) > 1 else vectors).append(parameter)
    scale = settings.muon_learning_rate / settings.learning_rate
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "scale": 1.0, "muon": False},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0, "muon": False},
        {"params": muon, "weight_decay": settings.weight_decay, "scale": scale, "muon": True},
    ]
    return [group for group in groups if group["params"]]


def find_embedding_and_output(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights of the input embedding and of the output layer; tied ones have one name."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer]
    weights = {id(layer.weight) for layer in layers}
    return {name for name, parameter in model.named_parameters() if id(parameter) in weights}
