"""The norm of the global gradient by layer, wherever ZeRO keeps the gradient between a backward pass and the step.

What is private of DeepSpeed here was read from 0.19.8; tests/training/zero/test_gradient_norms.py tests it for every
stage.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from deepspeed.utils import safe_get_local_grad
from transformers import PreTrainedModel

from training.zero.engine import global_norm
from training.zero.fragments import is_flat, shard_of_stage_3

_LAYER = re.compile(r"\.(\d+)\.")
"""The number of a decoder layer in a parameter's name: the first, since an expert's comes after that of its layer."""


def take_gradient_norms(engine: Any) -> dict[str, float]:
    """Return the norm of the global gradient, before clipping, of each part of the model that is trained. Collective.

    To be called after the step's last backward pass, before the optimizer's step. The parts are those of `name_parts`;
    the root of the sum of their squares is the norm of the whole gradient.
    """
    model = engine.module.model
    parts = name_parts(model)
    trained = dict.fromkeys(parts[name] for name, parameter in model.named_parameters() if parameter.requires_grad)
    places = {part: place for place, part in enumerate(trained)}
    squares = torch.zeros(len(places), dtype=torch.float64, device=engine.device)
    for name, gradient in _owned_gradients(engine):
        squares[places[parts[name]]] += global_norm([gradient.float()]).to(engine.device).double().square()
    if engine.zero_optimization_stage() > 0:  # else each rank has all of it
        torch.distributed.all_reduce(squares)
    return dict(zip(places, squares.sqrt().tolist(), strict=True))


def name_parts(model: PreTrainedModel) -> dict[str, str]:
    """Return by parameter which part of the model it is of: `embedding`, `layer_0` and so on, `output`, or `rest`.

    A matrix that is both embedding and output layer is the embedding.
    """
    ends = ((model.get_output_embeddings(), "output"), (model.get_input_embeddings(), "embedding"))
    part_of = {id(parameter): part for module, part in ends if module is not None for parameter in module.parameters()}
    return {name: part_of.get(id(parameter)) or _layer_of(name) for name, parameter in model.named_parameters()}


def _layer_of(name: str) -> str:
    found = _LAYER.search(name)
    return f"layer_{found[1]}" if found else "rest"


def _owned_gradients(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield this rank's piece of each parameter's global gradient: over all ranks each element is there once.

    Without ZeRO it is the whole, on every rank.
    """
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if hasattr(optimizer, "_wait_for_offload_copies"):  # stages 1 and 2
        optimizer._wait_for_offload_copies()
    for name, parameter in engine.module.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if stage == 3:
            _, owned = shard_of_stage_3(parameter)
            if owned > 0:
                yield name, safe_get_local_grad(parameter).view(-1)[:owned]
        elif is_flat(engine):
            if parameter._hp_mapping is not None:
                yield name, _flat_gradient(parameter)
        elif parameter.grad is not None:
            yield name, parameter.grad


def _flat_gradient(parameter: Any) -> torch.Tensor:
    """Return the piece that belongs to this rank's master, of what DeepSpeed holds of the gradient."""
    mapping = parameter._hp_mapping
    held: torch.Tensor = mapping.get_lp_grad_fragment(parameter._index_in_param_group).view(-1)
    where = mapping.lp_fragment_address
    return held if held.numel() == where.numel else held[where.start : where.start + where.numel]
