"""An engine of DeepSpeed's for a network, and the steps of its optimizer.

Everything private of DeepSpeed that Concord touches is in this folder. It was read from 0.19.8 and is tested by
tests/training/loop/test_trainer.py and test_elastic.py.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
import deepspeed
import torch
from deepspeed.runtime import bf16_optimizer, compiler
from deepspeed.runtime.engine import BFLOAT16, ZERO_OPTIMIZATION, DeepSpeedEngine
from deepspeed.runtime.utils import clip_tensors_by_global_norm
from deepspeed.runtime.zero.utils import get_norm_dtype
from deepspeed.utils import set_z3_leaf_modules

from cluster.placement import Placement
from configs.base import UserError
from configs.training.train import TrainConfig
from training.network.build_model import allocate
from training.network.compile import decoder_layers
from training.network.packed_lm import PackedLM
from training.zero.communication import overlap_reductions
from training.zero.config import ADAMW_MOMENTS, MUON_MOMENTS, JsonDict, deepspeed_config
from training.zero.ema import allocate_ema, begin_ema
from training.zero.fragments import ReadWeights, base_optimizer, fill_weights, list_masters
from training.zero.muon import MuonWithAdamW
from training.zero.optimizers import make_optimizer
from training.zero.quantised import quantise_exchange


def _import_muon_without_its_compiler() -> None:
    """Import DeepSpeed's Muon, which it compares each optimizer with, without the torch.compile of 2.8 s in it."""
    original = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = original


_ROW_ELEMENTS = 1024
"""Squares that are added up in fp32; the sums of rows are added up in fp64. That is as fast as fp32 throughout, which
lost 1e-3 of the norm of 20M elements on a CPU; this lost 3e-10."""


def global_norm(input_tensors: Iterable[torch.Tensor], norm_type: float = 2.0, mpu: Any = None) -> torch.Tensor:
    """Return the Euclidean norm of all elements, fp32, on the tensors' device; not finite where an element is not.

    It has the arguments of DeepSpeed's function, which adds up in fp32, and stands in its place.
    """
    assert norm_type == 2.0 and mpu is None
    norms = torch.cat([part for tensor in input_tensors for part in _row_norms(tensor.detach().reshape(-1))])
    norm: torch.Tensor = torch.linalg.vector_norm(norms.to(get_norm_dtype())).float()
    return norm


def _row_norms(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    whole = len(flat) // _ROW_ELEMENTS * _ROW_ELEMENTS
    yield torch.linalg.vector_norm(flat[:whole].view(-1, _ROW_ELEMENTS), dim=1)
    yield torch.linalg.vector_norm(flat[whole:], dim=0, keepdim=True)


_import_muon_without_its_compiler()
bf16_optimizer.get_global_norm_of_tensors = global_norm  # its own adds up in fp32, 1e-4 too little on CPUs


def make_engine(
    network: PackedLM, config: TrainConfig, placement: Placement, *, device: torch.device
) -> deepspeed.DeepSpeedEngine:
    """Make an engine whose optimizer has taken no step, and whose weights and moments are zero. Collective.

    The network's parameters, which have no memory, get theirs on `device` in the precision of the passes; in ZeRO-3
    only this rank's shards do, one whole parameter at a time.
    """
    num_trained = sum(parameter.numel() for parameter in network.model.parameters() if parameter.requires_grad)
    settings = deepspeed_config(config, placement, num_trained=num_trained)
    if placement.compile and placement.zero_stage == 3:
        _gather_whole_layers(network)
    _allocate_parameters(network, settings, config, placement, device)
    cpu_adam = _cpu_adam() if placement.offload_optimizer and config.optimizer.kind == "adamw" else None
    optimizer = make_optimizer(network.model, config, cpu_adam=cpu_adam)
    # DeepSpeed prints the memory in use, eight times
    with redirect_stdout(StringIO()), _sums_in_fp32(placement.zero_stage), _no_broadcast():
        engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
    if placement.zero_stage == 3:  # gradients are summed, not averaged over ranks, as the other stages are told to
        engine.optimizer._gradient_averaging_world_size = lambda *_: 1
        quantise_exchange(engine, config)
    overlap_reductions(engine.optimizer)
    if isinstance(optimizer, MuonWithAdamW):
        optimizer.attach_engine(engine)
    set_num_updates(engine, 0)
    if config.ema is not None:
        allocate_ema(engine)
    return engine


def _allocate_parameters(
    network: PackedLM, settings: JsonDict, config: TrainConfig, placement: Placement, device: torch.device
) -> None:
    """Give the parameters of the network memory for zeros, and move its buffers to the device."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for module in network.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    # what it would do to a whole module, DeepSpeed's class does here to one parameter after another
    zero3 = None
    if placement.zero_stage == 3:
        zero3 = deepspeed.zero.Init(torch.nn.Module(), config_dict_or_path=settings, dtype=dtype)

    def make(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        zeros = torch.zeros(parameter.shape, dtype=dtype, device=device)
        made = torch.nn.Parameter(zeros, requires_grad=parameter.requires_grad)
        if zero3 is not None:
            zero3._convert_to_deepspeed_param(made)
            made.partition()  # type: ignore[attr-defined]
        return made

    allocate(network, make)


def _gather_whole_layers(network: PackedLM) -> None:
    """Have ZeRO-3 gather the weights of a layer together, by hooks outside of the compiled pass of the layer.

    Its hooks of the modules in a layer would cut the pass into many graphs.
    """
    set_z3_leaf_modules(network, list({type(layer) for layer in decoder_layers(network)}))


@contextmanager
def _no_broadcast() -> Iterator[None]:
    """Have DeepSpeed not send the parameters of rank 0, which are zeros, to all ranks."""
    broadcast = DeepSpeedEngine._broadcast_model
    DeepSpeedEngine._broadcast_model = lambda _: None
    try:
        yield
    finally:
        DeepSpeedEngine._broadcast_model = broadcast


def restart_from(engine: deepspeed.DeepSpeedEngine, read: ReadWeights) -> None:
    """Give an engine the state of a new one with the weights that `read` gives. Collective."""
    for master, _ in list_masters(engine):
        for moment in base_optimizer(engine).state[master].values():
            if torch.is_tensor(moment):
                moment.zero_()
    set_num_updates(engine, 0)
    fill_weights(engine, read)
    begin_ema(engine)


@contextmanager
def _sums_in_fp32(zero_stage: int) -> Iterator[None]:
    """Have DeepSpeed train bf16 in stages 0 and 1 by a wrapper that adds gradients up in fp32, beside fp32 masters.

    Stage 1: the wrapper of stage 2, which reduces each gradient to its owner. DeepSpeed's own choice, BF16_Optimizer,
    sums all of them on all ranks after the last pass, and keeps those of the pass beside the sum.
    Stage 0, where it would accumulate in bf16: BF16_Optimizer. It shards over a group of ranks, which is here each rank
    alone; the engine sums over all.
    """
    if zero_stage > 1:
        yield
        return
    choose, configure = DeepSpeedEngine._do_optimizer_sanity_check, DeepSpeedEngine._configure_bf16_optimizer

    def choose_wrapper(self: Any, optimizer: Any) -> Any:
        if zero_stage == 1:
            return ZERO_OPTIMIZATION
        return BFLOAT16 if self.bfloat16_enabled() else choose(self, optimizer)

    def configure_on_own_group(self: Any, optimizer: Any) -> Any:
        everyone = self.seq_data_parallel_group
        self.seq_data_parallel_group = torch.distributed.new_group(
            [torch.distributed.get_rank()], use_local_synchronization=True
        )
        try:
            return configure(self, optimizer)
        finally:
            self.seq_data_parallel_group = everyone

    DeepSpeedEngine._do_optimizer_sanity_check = choose_wrapper
    DeepSpeedEngine._configure_bf16_optimizer = configure_on_own_group
    try:
        yield
    finally:
        DeepSpeedEngine._do_optimizer_sanity_check = choose
        DeepSpeedEngine._configure_bf16_optimizer = configure


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Set the learning rate of the next optimizer step; each parameter group multiplies it by its own scale."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def take_optimizer_step(
    engine: deepspeed.DeepSpeedEngine, *, loss_is_finite: bool, max_gradient_norm: float
) -> tuple[float, bool]:
    """Take the optimizer step that the last backward pass completed, if loss and gradient are finite.

    Returns the norm of the global gradient before clipping, and whether the weights were updated. All ranks agree.
    `max_gradient_norm` is that of the engine's configuration.
    """
    optimizer, wrapped = engine.optimizer, engine.zero_optimization_stage() > 0 or engine.bfloat16_enabled()
    if wrapped and not loss_is_finite and hasattr(optimizer, "clear_hp_grads"):  # bf16 in stage 0
        optimizer.clear_hp_grads()
        optimizer.clear_lp_grads()
        return float("nan"), False
    if wrapped:
        _skip_step_if(optimizer, not loss_is_finite)
        engine.step()
        if not optimizer.overflow:
            return float(engine.get_global_grad_norm()), True
        if getattr(optimizer, "cpu_offload", False):  # stages 1 and 2: DeepSpeed keeps the skipped gradients
            optimizer.averaged_gradients = dict.fromkeys(optimizer.averaged_gradients)
            optimizer.all_grad_tensors = dict.fromkeys(optimizer.all_grad_tensors)
        return float("nan"), False
    # without ZeRO, in fp32, DeepSpeed would clip by a norm that it neither returns nor checks
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norm = float(global_norm(gradients))
    updated = loss_is_finite and math.isfinite(norm)
    if updated:
        clip_tensors_by_global_norm(gradients, max_norm=max_gradient_norm, global_norm=norm)
        engine.step()
    else:
        engine.zero_grad()
    return norm, updated


def set_num_updates(engine: deepspeed.DeepSpeedEngine, number: int) -> None:
    """Set how many updates the optimizer has made, which Adam's bias correction needs, and allocate its moments."""
    base = base_optimizer(engine)
    for master, group in list_masters(engine):
        state, is_muon = base.state[master], base.param_groups[group]["muon"]
        for moment in MUON_MOMENTS if is_muon else ADAMW_MOMENTS:
            if moment not in state:
                state[moment] = torch.zeros_like(master)
        old = state.get("step")
        if not is_muon:  # each its own: DeepSpeed shared one tensor
            state["step"] = number if isinstance(old, int) else torch.tensor(float(number), device=master.device)


def _skip_step_if(optimizer: Any, unwanted: bool) -> None:
    """Replace the optimizer's overflow check, so that it skips the next step if `unwanted`.

    DeepSpeed's check would read all gradients once more; their norm, which it takes in any case, shows what is not
    finite.
    """

    def report_overflow(*_: Any, **__: Any) -> bool:
        optimizer.overflow = unwanted
        return unwanted

    if hasattr(optimizer, "check_grad_overflow"):  # stages 1 and 2
        optimizer.check_grad_overflow, optimizer.check_overflow = True, report_overflow
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        original = type(optimizer)._overflow_check_and_loss_scale_update

        def check(update_scale: bool = True) -> bool:
            report_overflow()
            return unwanted if not update_scale else bool(original(optimizer, update_scale))

        optimizer._overflow_check_and_loss_scale_update = check


def _cpu_adam() -> Any:
    """Return DeepSpeed's Adam for host memory, compiled if it was not yet. Raises UserError if it cannot be."""
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)  # the ninja that came with DeepSpeed
    if shutil.which(os.environ.get("CXX", "c++")) is None or shutil.which("ninja") is None:
        raise UserError(
            "offload_optimizer needs a C++ compiler and ninja, to compile DeepSpeed's CPUAdam; on Debian or Ubuntu: "
            "apt-get install g++ ninja-build, or set offload_optimizer: false in the cluster file"
        )
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam
