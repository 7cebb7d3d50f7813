"""The quantised exchange of weights and gradients of ZeRO++ (Wang et al., arXiv 2306.10209), in stage 3, on any device.

DeepSpeed's own is written for NVIDIA GPUs and fp16: its kernel for gradients reads the bits of bf16 and fp32 as fp16.
Here weights are gathered in 8 bits, and gradients are sent in 4 bits to the rank that owns them, which sums them in
fp32: in one exchange over all ranks, not one within and one between machines. Parameters that stay gathered, such as
norms, are exchanged exactly.
"""

from functools import cache
from typing import Any

import torch
from deepspeed import comm
from deepspeed.runtime.zero import partition_parameters
from torch.nn.functional import pad

from configs.training.train import TrainConfig

MAX_GROUP_ELEMENTS, MIN_GROUP_ELEMENTS = 2048, 64
"""So many weights share a scale, where their number can be cut so."""

GRADIENT_GROUP_ELEMENTS = 512
"""So many gradients share a scale: 4 bytes for 256."""


class WeightQuantizer:
    """Quantises weights to 8 bits. It has the methods of DeepSpeed's quantizer, and stands in its place."""

    def quantize(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights as int8, and an fp32 scale for each group of them."""
        groups = weights.reshape(-1, group_elements(weights.numel())).float()
        scales = _scales(groups, largest=127)
        return _round(groups, scales).view(weights.shape), scales.flatten()

    def dequantize(
        self, quantized: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return weights of the given type. The last groups may lack elements: the padding of the last ranks."""
        size = -(-quantized.numel() // scales.numel())
        flat = pad(quantized.reshape(-1), (0, size * scales.numel() - quantized.numel()))
        weights = flat.view(-1, size) * scales.unsqueeze(1)
        return weights.view(-1)[: quantized.numel()].view(quantized.shape).to(dtype)


partition_parameters.CUDAQuantizer = WeightQuantizer  # its own compiles its kernels for NVIDIA GPUs


def quantise_exchange(engine: Any, config: TrainConfig) -> None:
    """Have an engine of ZeRO stage 3 exchange its larger parameters as the recipe asks for."""
    optimizer = engine.optimizer
    if config.zero_quantized_weights:
        coordinator = optimizer.parameter_offload.param_coordinator
        gather = coordinator._PartitionedParameterCoordinator__all_gather_params_

        def gather_weights(parameters: Any, forward: bool) -> None:
            gather([p for p in parameters if p.ds_persist], forward, quantize=False)
            # one by one, in an order: those gathered together would share scales
            for parameter in sorted(parameters, key=lambda p: int(p.ds_id)):
                gather([] if parameter.ds_persist else [parameter], forward, quantize=True)

        coordinator._PartitionedParameterCoordinator__all_gather_params = gather_weights
    if config.zero_quantized_gradients and torch.distributed.get_world_size() > 1:
        reduce_scatter = optimizer._DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads

        def sum_gradients(parameters: list[Any], dtype: torch.dtype) -> list[torch.Tensor]:
            exact = [p for p in parameters if p.ds_persist]
            sums = dict(zip(map(id, exact), reduce_scatter(exact, dtype), strict=True)) if exact else {}
            return [sums[id(p)] if p.ds_persist else sum_own_part(p.grad) for p in parameters]

        optimizer._DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads = sum_gradients


def sum_own_part(gradient: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of the sum of all ranks' gradients, flat, fp32; each is rounded to 4 bits. Collective.

    What is not finite stays so, in its group.
    """
    rank, world_size = comm.get_rank(), comm.get_world_size()
    size = -(-gradient.numel() // world_size)
    parts = pad(gradient.reshape(-1).float(), (0, size * world_size - gradient.numel())).view(world_size, size)
    groups = pad(parts, (0, -size % GRADIENT_GROUP_ELEMENTS)).view(world_size, -1, GRADIENT_GROUP_ELEMENTS)
    scales = _scales(groups, largest=7)
    packed = _pack(_round(groups, scales))
    received, their_scales = torch.empty_like(packed), torch.empty_like(scales)
    comm.all_to_all_single(received, packed)
    comm.all_to_all_single(their_scales, scales)
    total = (_unpack(received) * their_scales).sum(dim=0).flatten()
    return total[: max(0, min(size, gradient.numel() - rank * size))]


@cache
def group_elements(num_elements: int) -> int:
    """Return how many of so many weights share a scale: as many as divide them, or all."""
    sizes = range(MAX_GROUP_ELEMENTS, MIN_GROUP_ELEMENTS - 1, -1)
    return next((size for size in sizes if num_elements % size == 0), num_elements)


def _scales(groups: torch.Tensor, *, largest: int) -> torch.Tensor:
    """Return what 1 stands for in each group, the last dimension, if its largest element is to be `largest`."""
    return groups.abs().amax(dim=-1, keepdim=True) / largest


def _round(groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (groups / torch.where(scales > 0, scales, 1.0)).round_().to(torch.int8)


def _pack(values: torch.Tensor) -> torch.Tensor:
    """Return pairs of integers from -8 to 7 in a byte each."""
    low, high = values[..., ::2], values[..., 1::2]
    return (low & 15) | (high << 4)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    low, high = (packed << 4) >> 4, packed >> 4
    return torch.stack([low, high], dim=-1).flatten(-2)
