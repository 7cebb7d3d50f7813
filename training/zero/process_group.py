"""The process group of the ranks: joining and leaving it, and decisions that all ranks take alike."""

import json
import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
import deepspeed
import torch
import torch._C._distributed_c10d as _c10d
from deepspeed.utils import logger as deepspeed_logger

from cluster.executor import Rank
from configs.base import UserError
from training.accelerator import BACKENDS, check_device, import_plugin, own_device

T = TypeVar("T")

_NUM_RECORDED = 2000
"""Collectives that PyTorch's flight recorder keeps of each rank, some 100 bytes each."""


def join_process_group(rank: Rank, *, timeout_seconds: float) -> torch.device:
    """Join the ranks' process group and return this rank's device.

    Raises UserError if PyTorch was not built for the rank's device, RuntimeError if that is not there.

    A collective times out after twice `timeout_seconds`, which is that of a hang, and not before a minute.
    """
    deepspeed_logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*is deprecated. Please use `torch.distributed", category=FutureWarning)
    if rank.device == "cpu":
        # DeepSpeed would compile, for half a minute and with a C++ compiler, a kernel that only inference calls.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(rank.num_threads)
    _turn_flight_recorder_on()
    import_plugin(rank.device)
    check_device(rank.device)
    timeout = timedelta(seconds=max(60.0, 2 * timeout_seconds))
    deepspeed.init_distributed(BACKENDS[rank.device], auto_mpi_discovery=False, verbose=False, timeout=timeout)
    return own_device(rank.device)


def leave_process_group() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()  # torch's own would leave DeepSpeed holding dead groups


def collectives_so_far() -> bytes | None:
    """Return how many collectives this rank has entered in each process group (`pg_status` of PyTorch's record), as
    JSON; None where its version or backend keeps no record.

    Needs no other rank, and may not return if the device is lost.
    """
    dump = getattr(_c10d, "_dump_fr_trace_json", None) or getattr(_c10d, "_dump_nccl_trace_json", None)
    if dump is None:
        return None
    # The collectives themselves are a megabyte a rank, of which a thousand would have to be read to judge by.
    record = json.loads(dump(includeCollectives=False, onlyActive=False))
    return json.dumps({"pg_status": record.get("pg_status", {})}).encode()


def _turn_flight_recorder_on() -> None:
    """Have PyTorch record collectives, as it does from the start of a group; its own dumps, pickles, stay off."""
    is_new = hasattr(_c10d, "_dump_fr_trace_json")  # which is there for every backend, and renamed the variable
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE" if is_new else "TORCH_NCCL_TRACE_BUFFER_SIZE", str(_NUM_RECORDED))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")


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


def on_any_rank(*statements: bool, device: torch.device) -> list[bool]:
    """Return which of some statements are true on at least one rank. Collective."""
    counts = torch.tensor(statements, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(counts)
    return [count > 0 for count in counts.tolist()]


def raise_together(problem: UserError | None) -> None:
    """Raise the first problem that any rank has, on all ranks, or none. Collective."""
    problems: list[UserError | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise found
