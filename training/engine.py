"""The deepspeed door: an engine for a model, and the fp32 state that this rank owns, wherever ZeRO has put it.

Everything private of DeepSpeed that Concord touches is in this file, read from 0.19.8 and held by
tests/training/test_loop.py.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from transformers import PreTrainedModel

from cluster.executor import Rank
from configs.training import TrainConfig
from training.deepspeed_config import deepspeed_config

MOMENTS = ("exp_avg", "exp_avg_sq")
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Fragment:
    """A stretch of one parameter's fp32 state. The tensors are views: writing to them changes the engine."""

    name: str
    """Of the parameter."""

    offset: int
    """First element, in the flattened parameter."""

    tensors: dict[str, torch.Tensor]
    """`master` and both moments, one-dimensional and of one length."""


def join(rank: Rank) -> torch.device:
    """Join the ranks' process group; the device of this rank."""
    deepspeed_logger.setLevel(logging.ERROR)
    if rank.device == "cpu":
        # DeepSpeed would compile, for half a minute and with a C++ compiler, a kernel that only inference calls.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(rank.num_threads)
    backend = "nccl" if rank.device == "cuda" else "gloo"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=COLLECTIVE_TIMEOUT)
    return torch.device(rank.device, 0) if rank.device == "cuda" else torch.device("cpu")


def leave() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()  # torch's own would leave DeepSpeed holding dead groups


def make_engine(model: PreTrainedModel, config: TrainConfig, *, zero_stage: int) -> deepspeed.DeepSpeedEngine:
    """An engine whose optimizer has taken no step and whose moments are zero."""
    optimizer = torch.optim.AdamW(
        _groups(model, config.optimizer.weight_decay),
        lr=0.0,  # DeepSpeed takes a step of its own to allocate state; at rate zero it changes no weight
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        eps=config.optimizer.epsilon,
    )
    settings = deepspeed_config(config, zero_stage=zero_stage)
    with redirect_stdout(StringIO()):  # DeepSpeed prints the memory in use, eight times
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    set_step(engine, 0)
    return engine


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Set the learning rate of the next optimizer step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def take_step(engine: deepspeed.DeepSpeedEngine) -> float:
    """Take the optimizer step that the last backward pass completed; the norm of the gradient before clipping."""
    if engine.zero_optimization_stage() > 0 or engine.bfloat16_enabled():
        engine.step()
        return float(engine.get_global_grad_norm())
    # without ZeRO, in fp32, DeepSpeed clips but does not say the norm
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    engine.step()
    return norm


def set_step(engine: deepspeed.DeepSpeedEngine, step: int) -> None:
    """Say that the optimizer has taken `step` steps, which Adam's bias correction depends on."""
    base = _base(engine)
    for master in _masters(engine):
        state = base.state[master]
        for moment in MOMENTS:
            if moment not in state:
                state[moment] = torch.zeros_like(master)
        state["step"] = torch.tensor(float(step))  # a tensor of its own for each: DeepSpeed shared one


def fragments(engine: deepspeed.DeepSpeedEngine) -> Iterator[Fragment]:
    """The fp32 state that this rank owns. Over all ranks each element of each parameter is there once."""
    stage = engine.zero_optimization_stage()
    for name, parameter in engine.module.named_parameters():
        if stage == 3:
            yield from _of_stage_3(engine.optimizer, name, parameter)
        elif stage > 0:
            yield from _of_stages_1_and_2(engine.optimizer, name, parameter)
    if stage == 0 and torch.distributed.get_rank() == 0:
        yield from _of_stage_0(engine)


def publish(engine: deepspeed.DeepSpeedEngine) -> None:
    """Make the forward pass use the master weights, after fragments were written to. Collective."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        for parameter in engine.module.parameters():
            master = optimizer._get_fp32_opt_state_partition(parameter, release_swap_buffers=False)[0]
            parameter.ds_tensor.data.copy_(master)
    elif stage > 0:
        optimizer.update_lp_params()
    else:
        _share_from_rank_0(engine)


def _groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    matrices = [parameter for _, parameter in named if parameter.ndim > 1]
    vectors = [parameter for _, parameter in named if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _base(engine: deepspeed.DeepSpeedEngine) -> torch.optim.Optimizer:
    """The AdamW inside DeepSpeed's wrapper, if there is a wrapper; its parameters are the fp32 masters."""
    base: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return base


def _masters(engine: deepspeed.DeepSpeedEngine) -> list[torch.Tensor]:
    """The fp32 tensors that AdamW steps on this rank."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    if stage > 0:
        return _partitions(engine.optimizer)
    return [master for _, _, master in _replicas(engine)]


def _partitions(optimizer: Any) -> list[torch.Tensor]:
    """One flat fp32 tensor a parameter group, in stages 1 and 2; DeepSpeed has two classes for them."""
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)


def _of_stages_1_and_2(optimizer: Any, name: str, parameter: Any) -> Iterator[Fragment]:
    mapping = parameter._hp_mapping
    if mapping is None:  # this rank owns nothing of it
        return
    flat = _partitions(optimizer)[mapping.param_group_index]
    where, state = mapping.hp_fragment_address, optimizer.optimizer.state[flat]
    tensors = {key: state[key].narrow(0, where.start, where.numel) for key in MOMENTS}
    master = flat.data.narrow(0, where.start, where.numel)
    yield Fragment(name, mapping.lp_fragment_address.start, {"master": master, **tensors})


def _of_stage_3(optimizer: Any, name: str, parameter: Any) -> Iterator[Fragment]:
    size = parameter.ds_tensor.numel()
    offset = torch.distributed.get_rank() * size
    owned = min(size, parameter.ds_numel - offset)  # the last ranks hold padding
    if owned <= 0:
        return

    def own(key: str | None) -> torch.Tensor:
        part = optimizer._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=key)[0]
        return part.data.narrow(0, 0, owned)  # type: ignore[no-any-return]

    yield Fragment(name, offset, {"master": own(None), **{key: own(key) for key in MOMENTS}})


def _of_stage_0(engine: deepspeed.DeepSpeedEngine) -> Iterator[Fragment]:
    base = _base(engine)
    for name, _, master in _replicas(engine):
        state = {key: base.state[master][key].view(-1) for key in MOMENTS}
        yield Fragment(name, 0, {"master": master.data.view(-1), **state})


def _replicas(engine: deepspeed.DeepSpeedEngine) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, parameter, fp32 master) without ZeRO; in fp32 the parameter is its own master."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    low = getattr(engine.optimizer, "fp16_groups", None)
    if low is None:
        yield from ((name, parameter, parameter) for parameter, name in names.items())
        return
    for parameters, masters in zip(low, engine.optimizer.fp32_groups, strict=True):
        for parameter, master in zip(parameters, masters, strict=True):
            yield names[parameter], parameter, master


def _share_from_rank_0(engine: deepspeed.DeepSpeedEngine) -> None:
    base = _base(engine)
    for _, parameter, master in _replicas(engine):
        for tensor in (master.data, *(base.state[master][key] for key in MOMENTS)):
            torch.distributed.broadcast(tensor, src=0)
        parameter.data.copy_(master.data)
