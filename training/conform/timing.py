"""How long work takes on a device."""

import time
from collections.abc import Callable
from statistics import median

import torch

from training.accelerator import is_accelerator

_MAX_SECONDS = 8.0


def wait_for_device(device: torch.device) -> None:
    """Wait until the device has done all that it was given, on every stream."""
    if is_accelerator(device):
        torch.get_device_module(device).synchronize()


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, from an idle device to an idle device."""
    wait_for_device(device)
    start = time.perf_counter()
    work()
    wait_for_device(device)
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: torch.device, *, warm_up: int = 2, calls: int = 5) -> float:
    """Return the median time of calls after some that warm up; there are fewer of both where they are slow."""
    start = time.perf_counter()
    times = [measure_seconds(work, device)]
    while len(times) < warm_up + calls and time.perf_counter() - start < _MAX_SECONDS:
        times.append(measure_seconds(work, device))
    return median(times[min(warm_up, len(times) - 1) :])


def matmul_flops(size: int, *, dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of a product of two square matrices: what a model of any kind can hope for."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: one @ other, device, warm_up=3, calls=7)
