"""The weights and optimizer state that a rank holds, wherever ZeRO has put them, as fragments of single parameters.

What is private of DeepSpeed here was read from 0.19.8; tests/training/loop/test_elastic.py tests it for every stage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from configs.base import UserError

MODEL_PREFIX = "model."
"""Prefix of the parameters' names in PackedLM (training/network/packed_lm.py), which wraps the model; fragments and
files have transformers' own names."""


@dataclass(frozen=True)
class Fragment:
    """A contiguous piece of one parameter's state. The tensors are views: writing to them changes the engine."""

    name: str
    """The parameter's name, as transformers has it."""

    offset: int
    """First element of the piece in the flattened parameter."""

    tensors: dict[str, torch.Tensor]
    """Tensors by kind, one-dimensional and of one length: `master` (fp32) and the optimizer's moments (fp32), or
    `frozen`, in the model's precision, for a parameter that is not trained."""


def owned_fragments(engine: Any) -> Iterator[Fragment]:
    """Yield what this rank saves: over all ranks each element of each parameter is there once."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    stage = engine.zero_optimization_stage()
    for fragment in _held(engine):
        replicated = stage == 0 or (stage < 3 and "frozen" in fragment.tensors)
        yield from _share(fragment, rank, world_size) if replicated else (fragment,)


def needed_fragments(engine: Any) -> Iterator[Fragment]:
    """Yield what this rank must load to resume: its shard of what is sharded, all of what is replicated."""
    yield from _held(engine)
    if _loads_weights(engine):
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                yield Fragment(name.removeprefix(MODEL_PREFIX), 0, {"master": parameter.data.view(-1)})


ReadWeights = Callable[[str, int, torch.Tensor], None]
"""Fills a one-dimensional tensor with the elements of the parameter of a name, from a number on."""


def fill_weights(engine: Any, read: ReadWeights) -> None:
    """Set all weights to those that `read` gives; this rank reads what it holds, and no more. Collective.

    A UserError on any rank is raised on all.
    """
    from training.zero.process_group import raise_together  # which imports deepspeed

    problem = None
    try:
        for fragment in needed_fragments(engine):
            for kind in fragment.tensors.keys() & {"master", "frozen"}:
                read(fragment.name, fragment.offset, fragment.tensors[kind])
    except UserError as error:
        problem = error
    raise_together(problem)
    copy_masters_to_weights(engine)


def copy_masters_to_weights(engine: Any) -> None:
    """Make the forward pass use the master weights, once `needed_fragments` are loaded. Collective."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        _drop_copies_of_weights(engine)
        for parameter in engine.module.parameters():
            if parameter.requires_grad:
                number, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                flat = optimizer.fp32_partitioned_groups_flat[number]
                parameter.ds_tensor.data.view(-1)[:size].copy_(flat.data.narrow(0, start, size))
    elif is_flat(engine) and not _loads_weights(engine):
        optimizer.update_lp_params()


def _drop_copies_of_weights(engine: Any) -> None:
    """Have ZeRO-3 gather anew its small parameters, which it keeps gathered, and what it keeps for the backward pass.

    The latter `zero_hpz_partition_size` asks for. DeepSpeed renews both after its own updates only.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus  # seconds, which readers do without

    gathered = [p for p in engine.optimizer.persistent_parameters if p.ds_status == ZeroParamStatus.AVAILABLE]
    if gathered:
        gathered[0].partition(gathered)
    for parameter in engine.module.parameters():
        parameter.ds_secondary_tensor = None


def is_flat(engine: Any) -> bool:
    """Return whether masters are flat tensors of many parameters: in stages 1 and 2, and in bf16 without ZeRO."""
    return bool(0 < engine.zero_optimization_stage() < 3 or hasattr(engine.optimizer, "fp32_groups_flat_partition"))


def _loads_weights(engine: Any) -> bool:
    """Return whether each rank reads all weights from disk, in stages 1 and 2, instead of an all-gather of shards.

    That is so on CPUs, where gathering 440 MB over gloo took 1.3 s and reading them 0.2 s; a cluster's links are faster
    than its file system.
    """
    return bool(0 < engine.zero_optimization_stage() < 3 and engine.device.type == "cpu")


def _held(engine: Any) -> Iterator[Fragment]:
    """Yield all that this rank has of the masters, their moments and the frozen parameters."""
    stage = engine.zero_optimization_stage()
    for full_name, parameter in engine.module.named_parameters():
        name = full_name.removeprefix(MODEL_PREFIX)
        if not parameter.requires_grad:
            yield from _frozen_fragments(name, parameter, sharded=stage == 3)
        elif stage == 3:
            yield from _stage_3_fragments(engine.optimizer, name, parameter)
        elif is_flat(engine):
            yield from _flat_fragments(engine.optimizer, name, parameter)
        else:  # the parameter is the master
            yield Fragment(name, 0, _with_moments(parameter.data.view(-1), base_optimizer(engine).state[parameter]))


def base_optimizer(engine: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside DeepSpeed's wrapper, if there is one; its parameters are the fp32 masters."""
    base: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return base


def list_masters(engine: Any) -> list[tuple[torch.Tensor, int]]:
    """List the fp32 tensors that the optimizer updates on this rank, each with the number of its parameter group."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        groups = [optimizer.sub_group_to_group_id[i] for i in range(len(optimizer.fp32_partitioned_groups_flat))]
        return list(zip(optimizer.fp32_partitioned_groups_flat, groups, strict=True))
    if is_flat(engine):
        return [(flat, number) for number, flat in enumerate(_partitions(optimizer))]
    groups_of = base_optimizer(engine).param_groups
    return [(master, number) for number, group in enumerate(groups_of) for master in group["params"]]


def _share(fragment: Fragment, rank: int, world_size: int) -> Iterator[Fragment]:
    """Yield the part of a replicated fragment that this rank saves, if it has one."""
    size = next(iter(fragment.tensors.values())).numel()
    start, stop = rank * size // world_size, (rank + 1) * size // world_size
    if start < stop:
        tensors = {kind: tensor[start:stop] for kind, tensor in fragment.tensors.items()}
        yield Fragment(fragment.name, fragment.offset + start, tensors)


def _frozen_fragments(name: str, parameter: Any, *, sharded: bool) -> Iterator[Fragment]:
    if not sharded:
        yield Fragment(name, 0, {"frozen": parameter.data.view(-1)})
        return
    offset, owned = shard_of_stage_3(parameter)
    if owned > 0:
        yield Fragment(name, offset, {"frozen": parameter.ds_tensor.data.view(-1).narrow(0, 0, owned)})


def _flat_fragments(optimizer: Any, name: str, parameter: Any) -> Iterator[Fragment]:
    mapping = parameter._hp_mapping
    if mapping is None:  # this rank owns nothing of it
        return
    flat = _partitions(optimizer)[mapping.param_group_index]
    where = mapping.hp_fragment_address
    whole = _with_moments(flat.data, optimizer.optimizer.state[flat])
    tensors = {kind: tensor.narrow(0, where.start, where.numel) for kind, tensor in whole.items()}
    yield Fragment(name, mapping.lp_fragment_address.start, tensors)


def _stage_3_fragments(optimizer: Any, name: str, parameter: Any) -> Iterator[Fragment]:
    offset, owned = shard_of_stage_3(parameter)
    if owned <= 0:
        return
    number, start, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
    flat = optimizer.fp32_partitioned_groups_flat[number]
    whole = _with_moments(flat.data, optimizer.optimizer.state[flat])
    yield Fragment(name, offset, {kind: tensor.narrow(0, start, owned) for kind, tensor in whole.items()})


def shard_of_stage_3(parameter: Any) -> tuple[int, int]:
    """Return the first element of a parameter that this rank holds, and how many; the last ranks hold padding."""
    size = parameter.ds_tensor.ds_numel if hasattr(parameter.ds_tensor, "ds_numel") else parameter.ds_tensor.numel()
    offset = torch.distributed.get_rank() * size
    return offset, min(size, parameter.ds_numel - offset)


def _with_moments(master: torch.Tensor, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the flat master and the tensors of its optimizer state that have an element for each of its own."""
    size = master.numel()
    moments = {key: value for key, value in state.items() if torch.is_tensor(value) and value.numel() == size}
    moments.pop("step", None)  # a master of one element has a step of its own size
    return {"master": master, **{key: moments[key].view(-1) for key in sorted(moments)}}


def _partitions(optimizer: Any) -> list[torch.Tensor]:
    """Return this rank's flat fp32 tensor of each parameter group, of DeepSpeed's two classes that have them."""
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)
