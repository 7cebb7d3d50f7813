"""The accelerator that a process computes on: NVIDIA's and AMD's GPUs (both `cuda` to PyTorch), Intel's, Gaudi, a CPU.

All that differs from one kind to the next, but for kernels, is here. Only CUDA and CPUs were run.
"""

import os
import platform
import resource
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from configs.base import UserError

BACKENDS: Mapping[str, str] = {"cuda": "nccl", "xpu": "xccl", "hpu": "hccl", "cpu": "gloo"}
"""The backend of torch.distributed by the type of device; on AMD's GPUs `nccl` is RCCL. DeepSpeed, too, calls them by
these types (DS_ACCELERATOR)."""

_PLUGIN_OF_GAUDI = "habana_frameworks"
"""The package that brings `hpu` into PyTorch once it is imported."""


def find_device_type() -> str:
    """Return the type of the accelerator that this process can compute on, `cpu` without one."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.xpu.is_available():
        return "xpu"
    if find_spec(_PLUGIN_OF_GAUDI) is not None:
        import_plugin("hpu")
        return "hpu" if torch.get_device_module("hpu").is_available() else "cpu"
    return "cpu"


def import_plugin(device_type: str) -> None:
    """Import the package without which PyTorch does not know this type of device, if there is one."""
    if device_type == "hpu":
        __import__(f"{_PLUGIN_OF_GAUDI}.torch.hpu")


def check_device(device_type: str) -> None:
    """Raise UserError if this build of PyTorch has nothing for the device, RuntimeError if the device is not there."""
    if device_type == "cpu" or torch.get_device_module(device_type).is_available():
        return
    built = {"cuda": torch.version.cuda or torch.version.hip, "xpu": getattr(torch.version, "xpu", None)}
    host = socket.gethostname()
    if device_type in built and built[device_type] is None:
        raise UserError(
            f"the ranks compute on GPUs, and PyTorch {torch.__version__} on {host} was built without them; install the "
            "build for your driver (pytorch.org, Get Started), or compute on CPUs with device: cpu in the pool"
        )
    raise RuntimeError(  # of the device (cluster/device_errors.py): another host may have what this one has lost
        f"{device_type.upper()} error: PyTorch {torch.__version__} finds no device on {host}; see its driver"
    )


def own_device(device_type: str) -> torch.device:
    """Return the device of this process: a rank sees one accelerator, its own."""
    return torch.device("cpu") if device_type == "cpu" else torch.device(device_type, 0)


def is_accelerator(device: torch.device) -> bool:
    """Return whether the device works beside the host: with streams, events, pinned memory and memory of its own."""
    return device.type != "cpu"


def new_event(device: torch.device) -> Any:
    """Return an event of an accelerator that can be timed."""
    return torch.get_device_module(device).Event(enable_timing=True)


def current_stream(device: torch.device) -> Any:
    """Return the stream of an accelerator that work is enqueued on now."""
    return torch.get_device_module(device).current_stream(device)


def wait_for_stream(device: torch.device) -> None:
    """Wait until what was enqueued on the current stream is done; on a CPU it is."""
    if is_accelerator(device):
        current_stream(device).synchronize()


def device_name(device: torch.device) -> str:
    """Return the name of an accelerator as its driver gives it, or the architecture of the CPU."""
    if is_accelerator(device):
        return str(torch.get_device_module(device).get_device_name(device))
    return f"{platform.machine()} CPU"


def device_bytes(device: torch.device) -> int:
    """Return the memory of an accelerator, or of the host."""
    if device.type == "hpu":  # whose properties have no total
        return int(torch.get_device_module(device).mem_get_info(device)[1])
    if is_accelerator(device):
        return int(torch.get_device_module(device).get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held so far: of the accelerator, or resident without one."""
    if is_accelerator(device):
        return int(torch.get_device_module(device).max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
