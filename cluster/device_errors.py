"""Tells by what torch raises whether memory ran out, a device failed, or ranks lost each other. Imports no torch.

torch has an exception of its own for few of these. The rest are RuntimeError with the words of CUDA, HIP, NCCL (whose
`ncclResult_t` are https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/types.html) or gloo.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from configs.base import InfrastructureError, OutOfMemory
from configs.text import one_line

FailureKind = Literal["memory", "device", "communication"]
"""`memory`: the same work would fail again. `device`: this process's device, or its driver. `communication`: what a
rank sees when another is gone, or its network is."""

_MEMORY = re.compile(r"out of memory|can't allocate memory", re.IGNORECASE)

_PROGRAM = re.compile(
    r"device-side assert|no kernel image is available|invalid (configuration|device) (argument|function)"
    r"|invalid (argument|usage)|_INVALID_VALUE|_NOT_SUPPORTED|stream is capturing|must be CUDA and dense"
    r"|doesn't have NCCL|only supported with GPUs|no GPUs found"
)
"""Errors of a device that its program, or its version of torch, makes: they would come again on every other one."""

_DEVICE = re.compile(
    r"(CUDA|HIP|XPU|cuDNN|CUBLAS|CUSOLVER|MIOpen)[ _]*(driver )?(error|status)|CUDA_ERROR_|Cuda failure|hipError"
    r"|ncclUnhandledCudaError|unhandled cuda error|uncorrectable|\bECC\b|NVML_ERROR|no NVIDIA driver"
    r"|CUDA (unknown|driver)|No CUDA GPUs|cudaGetDeviceCount|Triton Error \[(CUDA|HIP)\]|GPU is lost|driver.* too old",
    re.IGNORECASE,
)

_COMMUNICATION = re.compile(
    r"NCCL|nccl[A-Z]\w+Error|RCCL|\bgloo\b|Connection (closed|reset|refused)|Broken pipe|Socket (Timeout|closed)"
    r"|address already in use|EADDRINUSE|failed to (listen|bind)|Timed out waiting|wait timeout"
    r"|Watchdog caught collective|Failed to recv|failed to connect",
    re.IGNORECASE,
)

_CLASSES: dict[str, FailureKind] = {
    "OutOfMemoryError": "memory",
    "MemoryError": "memory",
    "DistNetworkError": "communication",
    "DistStoreError": "communication",
}


def failure_kind(error: BaseException | None) -> FailureKind | None:
    """Return what kind of failure of machines an exception of torch is; None if it is none."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = str(error)
    found = next((_CLASSES[kind] for kind in kinds if kind in _CLASSES), None)
    if found is not None:
        return found
    if isinstance(error, ConnectionError):
        return "communication"
    if "RuntimeError" not in kinds:
        return None
    if _MEMORY.search(text):
        return "memory"
    if _PROGRAM.search(text):
        return None
    if _DEVICE.search(text) or "AcceleratorError" in kinds:
        return "device"
    if _COMMUNICATION.search(text) or "DistBackendError" in kinds or "DistError" in kinds:
        return "communication"
    return None


def out_of_memory(who: str, how: str) -> OutOfMemory:
    """Return the error which says that there was too little memory, and what helps."""
    return OutOfMemory(
        f"{who} ran out of memory ({how}); lower micro_batch_size, raise zero_stage, set activation_checkpointing, or "
        "use fewer ranks a node, in the cluster file"
    )


@contextmanager
def explained(label: str) -> Iterator[None]:
    """Raise OutOfMemory or InfrastructureError, one sentence, for a failure of this process's machine in the block."""
    try:
        yield
    except Exception as error:
        kind = failure_kind(error)
        if kind is None or isinstance(error, OSError):  # of the latter others know more
            raise
        how = one_line(error)[:300]
        if kind == "memory":
            raise out_of_memory(label, how) from error
        raise InfrastructureError(f"{label}: the device failed ({how}); run the same command to go on") from error
