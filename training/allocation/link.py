"""Measures how long collectives of the ranks take, on their own group: a start-up time and a bandwidth.

That is the alpha-beta model (R. W. Hockney, 1994, doi 10.1016/S0167-8191(06)80021-9), fitted to gathers of some sizes.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from training.accelerator import is_accelerator, wait_for_stream
from training.allocation.known_links import Link

SIZES = (1 << 10, 1 << 15, 1 << 20)
"""Elements in fp32 that each rank gives: 4 KiB to 4 MiB."""

REPEATS = 3
"""Times that each is gathered; the fastest counts."""


def fit_link(device: torch.device, *, devices: Sequence[str], hosts: Sequence[str]) -> Link:
    """Time gathers and fit the two numbers; `devices` and `hosts` are those of the ranks. Collective."""
    world_size = torch.distributed.get_world_size()
    sent, took = [], []
    for size in SIZES:
        own = torch.zeros(size, device=device)
        gathered = torch.empty(size * world_size, device=device)
        seconds = []
        for _ in range(1 + REPEATS):  # the first connects
            torch.distributed.barrier()
            wait_for_stream(device)
            began = time.perf_counter()
            torch.distributed.all_gather_into_tensor(gathered, own)
            wait_for_stream(device)
            seconds.append(time.perf_counter() - began)
        slowest = torch.tensor(min(seconds[1:]), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
        sent.append(4 * size * (world_size - 1))
        took.append(float(slowest))
    alpha, bandwidth = fit_alpha_beta(sent, took)
    return Link(
        devices=tuple(sorted(set(devices))),
        num_ranks=world_size,
        num_hosts=len(set(hosts)),
        hosts=() if is_accelerator(device) else tuple(sorted(set(hosts))),
        alpha_seconds=alpha,
        bytes_per_second=bandwidth,
    )


def fit_alpha_beta(sent: Sequence[float], took: Sequence[float]) -> tuple[float, float]:
    """Return alpha in seconds and the bandwidth, of least relative squares: the small count as much as the large."""
    weights = 1 / np.asarray(took)
    columns = np.stack([np.ones(len(sent)), np.asarray(sent)], axis=1) * weights[:, None]
    (alpha, per_byte), *_ = np.linalg.lstsq(columns, np.ones(len(took)), rcond=None)
    if alpha <= 0 or per_byte <= 0:  # noise: then each is what one end says by itself
        alpha, per_byte = max(alpha, took[0] / 2), max(per_byte, took[-1] / sent[-1])
    return float(alpha), float(1 / per_byte)
