"""The optimizer that a recipe asks for, on the parameters that are trained."""

from fnmatch import fnmatchcase
from typing import Any

import torch
from transformers import PreTrainedModel

from configs.base import UserError
from configs.training import OptimizerConfig, TrainConfig
from training.zero.muon import MuonWithAdamW

MOMENTS = {False: ("exp_avg", "exp_avg_sq"), True: ("momentum_buffer",)}
"""What is kept for each element, by whether its group is Muon's; fp32."""


def freeze(model: PreTrainedModel, patterns: tuple[str, ...]) -> None:
    """Take the parameters whose names match out of training. Raises UserError on a pattern that matches nothing."""
    named = dict(model.named_parameters())
    for pattern in patterns:
        chosen = [name for name in named if fnmatchcase(name, pattern)]
        if not chosen:
            raise UserError(
                f"freeze: no parameter is named like {pattern!r}; there is, for example, {next(iter(named))}"
            )
        for name in chosen:
            named[name].requires_grad = False
    if not any(parameter.requires_grad for parameter in named.values()):
        raise UserError("freeze: its patterns match every parameter, so nothing is left to train")


def make_optimizer(model: PreTrainedModel, config: TrainConfig, *, cpu_adam: Any | None) -> torch.optim.Optimizer:
    """AdamW, or Muon with AdamW. `cpu_adam`: DeepSpeed's class, where the optimizer's state is in host memory.

    The rate is zero: DeepSpeed takes a step of its own to allocate state, and at rate zero it changes no weight.
    """
    settings = config.optimizer
    adamw: dict[str, Any] = {"lr": 0.0, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}
    groups = parameter_groups(model, settings)
    if settings.kind == "muon":
        return MuonWithAdamW(groups, momentum=settings.muon_momentum, fused=True, **adamw)
    if cpu_adam is not None:
        optimizer: torch.optim.Optimizer = cpu_adam(groups, adamw_mode=True, **adamw)
        return optimizer
    return torch.optim.AdamW(groups, fused=True, **adamw)


def parameter_groups(model: PreTrainedModel, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups with their weight decay, their part of the learning rate (`scale`) and whether they are Muon's."""
    ends = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    muon = [p for p in trained if settings.kind == "muon" and p.ndim > 1 and id(p) not in ends]
    chosen = {id(p) for p in muon}
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in chosen]
    vectors = [p for p in trained if p.ndim <= 1]
    scale = settings.muon_learning_rate / settings.learning_rate
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "scale": 1.0, "muon": False},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0, "muon": False},
        {"params": muon, "weight_decay": settings.weight_decay, "scale": scale, "muon": True},
    ]
    return [group for group in groups if group["params"]]
