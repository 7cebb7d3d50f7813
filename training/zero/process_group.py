"""The process group of the ranks: joining and leaving it, and decisions that all ranks take alike."""

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger

from cluster.executor import Rank
from configs.base import UserError
from training.accelerator import BACKENDS, import_plugin, own_device

T = TypeVar("T")


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
    import_plugin(rank.device)
    timeout = timedelta(seconds=max(60.0, 2 * timeout_seconds))
    deepspeed.init_distributed(BACKENDS[rank.device], auto_mpi_discovery=False, verbose=False, timeout=timeout)
    return own_device(rank.device)


def leave_process_group() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()  # torch's own would leave DeepSpeed holding dead groups


def from_rank_0(read: Callable[[], T]) -> T:
    """Have rank 0 call `read`, and return its result on all ranks. Collective.

    What ranks decide together must not hang on what each of them sees of a shared file system, which may differ. What
    `read` raises, all ranks raise.
    """
    result: T | None = None
    own: Exception | None = None
    if torch.distributed.get_rank() == 0:
        try:
            result = read()
        except Exception as error:
            own = error
    # of another kind an exception may not survive the way to another process
    told = own if own is None or isinstance(own, UserError | OSError) else RuntimeError(f"{type(own).__name__}: {own}")
    answer = [(result, told)]
    torch.distributed.broadcast_object_list(answer, src=0)
    result, problem = answer[0]
    if problem is not None:
        raise own or problem
    return result  # type: ignore[return-value]


def raise_together(problem: UserError | None) -> None:
    """Raise the first problem that any rank has, on all ranks, or none. Collective."""
    problems: list[UserError | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise found
