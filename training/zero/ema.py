"""The exponential moving average of the weights, which stands beside the optimizer's moments and is saved with them.

Each rank has that of the fp32 masters it updates: 4 bytes for each of their elements, and no communication.
"""

from typing import Any

import torch

from configs.training.optimizer import EmaConfig
from training.zero.config import EMA
from training.zero.fragments import base_optimizer, list_masters


def decay_after(config: EmaConfig, num_updates: int) -> float:
    """Return the average's decay at the update that makes `num_updates` of them, as TensorFlow's average has it."""
    return min(config.decay, (1 + num_updates) / (10 + num_updates))


def allocate_ema(engine: Any) -> None:
    """Have an engine keep the average, which is zero."""
    for master, _ in list_masters(engine):
        base_optimizer(engine).state[master][EMA] = torch.zeros_like(master)


def begin_ema(engine: Any) -> None:
    """Set the average to the weights, if the engine keeps one."""
    for master, average in _averages(engine):
        average.copy_(master.detach())


def update_ema(engine: Any, *, decay: float) -> None:
    """Move the average towards the weights, which were just updated."""
    for master, average in _averages(engine):
        average.lerp_(master.detach(), 1 - decay)


def _averages(engine: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    state = base_optimizer(engine).state
    return [(master, state[master][EMA]) for master, _ in list_masters(engine) if EMA in state[master]]
