"""The one module that imports deepspeed: the ranks' process group, and an engine for a network.

Everything private of DeepSpeed that Concord touches is in this folder. It was read from 0.19.8 and is tested by
tests/training/loop/test_trainer.py and test_elastic.py.
"""

import logging
import math
import os
import shutil
import sys
import warnings
from contextlib import redirect_stdout
from datetime import timedelta
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
import deepspeed
import torch
from deepspeed.runtime import compiler
from deepspeed.utils import logger as deepspeed_logger

from cluster.executor import Rank
from cluster.placement import Placement
from configs.base import UserError
from configs.training import TrainConfig
from training.network.packed_lm import PackedLM
from training.zero.config import ADAMW_MOMENTS, MUON_MOMENTS, deepspeed_config
from training.zero.fragments import base_optimizer, list_masters
from training.zero.muon import MuonWithAdamW
from training.zero.optimizers import make_optimizer
from training.zero.step_timing import COLLECTIVES, Stopwatch


def _import_muon_without_its_compiler() -> None:
    """Import DeepSpeed's Muon, which it compares each optimizer with, without the torch.compile of 2.8 s in it."""
    original = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = original


_import_muon_without_its_compiler()


def join_process_group(rank: Rank, *, timeout_seconds: float) -> torch.device:
    """Join the ranks' process group and return this rank's device.

    A collective times out after twice `timeout_seconds`, which is that of a hang, and not before a minute.
    """
    deepspeed_logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*is deprecated. Please use `torch.distributed", category=FutureWarning)
    if rank.device == "cpu":
        # DeepSpeed would compile, for half a minute and with a C++ compiler, a kernel that only inference calls.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(rank.num_threads)
    backend = "nccl" if rank.device == "cuda" else "gloo"
    timeout = timedelta(seconds=max(60.0, 2 * timeout_seconds))
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    return torch.device(rank.device, 0) if rank.device == "cuda" else torch.device("cpu")


def leave_process_group() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()  # torch's own would leave DeepSpeed holding dead groups


def make_engine(network: PackedLM, config: TrainConfig, placement: Placement) -> deepspeed.DeepSpeedEngine:
    """Make an engine whose optimizer has taken no step and whose moments are zero. Collective."""
    cpu_adam = _cpu_adam() if placement.offload_optimizer and config.optimizer.kind == "adamw" else None
    optimizer = make_optimizer(network.model, config, cpu_adam=cpu_adam)
    settings = deepspeed_config(config, placement)
    with redirect_stdout(StringIO()):  # DeepSpeed prints the memory in use, eight times
        engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
    if isinstance(optimizer, MuonWithAdamW):
        optimizer.attach_engine(engine)
    set_num_updates(engine, 0)
    return engine


def time_communication(stopwatch: Stopwatch) -> None:
    """Have the stopwatch count the time of DeepSpeed's collectives as communication from now on."""
    backend = deepspeed.comm.comm.cdb
    for name in COLLECTIVES:
        call = getattr(type(backend), name).__get__(backend)
        setattr(backend, name, stopwatch.time_collective(call))


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Set the learning rate of the next optimizer step; each parameter group multiplies it by its own scale."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def take_optimizer_step(engine: deepspeed.DeepSpeedEngine, *, loss_is_finite: bool) -> tuple[float, bool]:
    """Take the optimizer step that the last backward pass completed, if loss and gradient are finite.

    Returns the norm of the global gradient before clipping, and whether the weights were updated. All ranks agree.
    """
    optimizer, wrapped = engine.optimizer, engine.zero_optimization_stage() > 0 or engine.bfloat16_enabled()
    if wrapped and not loss_is_finite and hasattr(optimizer, "clear_hp_grads"):  # stage 1 in bf16
        optimizer.clear_hp_grads()
        optimizer.clear_lp_grads()
        return float("nan"), False
    if wrapped:
        _skip_step_if(optimizer, not loss_is_finite)
        engine.step()
        norm = float(engine.get_global_grad_norm())
        return (norm, True) if not optimizer.overflow else (float("nan"), False)
    # without ZeRO, in fp32, DeepSpeed clips but neither returns the norm nor checks it
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    updated = loss_is_finite and math.isfinite(norm)
    if updated:
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

    if hasattr(optimizer, "overflow_checker"):  # bf16 without ZeRO
        optimizer.overflow_checker.check = report_overflow
    elif hasattr(optimizer, "check_grad_overflow"):  # stages 1 and 2
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
