"""What is known of a machine before anything is measured on it."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.host.limits import memory_bytes
from cluster.host.programs import run_program
from training.conform.record import DeviceRecord, HostRecord

_PACKAGES = ("torch", "deepspeed", "transformers", "triton", "numpy", "safetensors", "habana-torch-plugin")
_QUERY = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
_QUERY_SECONDS = 60.0


@dataclass(frozen=True)
class Facts:
    """The device, and what it can compute in."""

    device: DeviceRecord
    has_bf16: bool


def find_facts() -> Iterator[Facts]:
    """Yield the facts of this machine's accelerators, once; it is the work of a child process, since it starts CUDA."""
    import torch

    from training.accelerator import device_bytes, device_name, find_device_type, own_device

    kind = find_device_type()
    device = own_device(kind)
    record = DeviceRecord(
        type=kind,
        name=device_name(device),
        count=1 if kind == "cpu" else torch.get_device_module(device).device_count(),
        memory_bytes=device_bytes(device),
        driver=_driver(kind),
        capability=_capability(kind),
    )
    yield Facts(record, kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False))


def describe_host() -> HostRecord:
    """Return the model of the CPU, the cores that this process may use, and the host's memory."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return HostRecord(cpu=model, num_cores=len(os.sched_getaffinity(0)), memory_bytes=memory_bytes()[1])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _driver(kind: str) -> str:
    """Return the version of the driver; of ROCm that which PyTorch was built for."""
    import torch

    if kind == "cuda" and torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if kind == "cuda" and shutil.which("nvidia-smi"):
        return run_program(_QUERY, timeout_seconds=_QUERY_SECONDS).output.partition("\n")[0].strip()
    if kind == "xpu":
        return str(torch.xpu.get_device_properties(0).driver_version)
    return ""


def _capability(kind: str) -> str:
    import torch

    if kind != "cuda":
        return ""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(0).gcnArchName)
    return ".".join(map(str, torch.cuda.get_device_capability(0)))
