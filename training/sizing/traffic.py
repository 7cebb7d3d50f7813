"""What a rank sends to other ranks and to its host in an optimizer step: bytes, in how many collectives. Arithmetic.

In a ring of n ranks each sends B (n-1)/n to gather or to scatter B bytes, and an all-reduce is both (Patarasuk and
Yuan, 2009, doi 10.1016/j.jpdc.2008.09.002). What is exchanged when was read from training/zero/ and DeepSpeed 0.19.8,
and is the table of docs/training.md; ZeRO's paper counts the same (arXiv 1910.02054, section 7).
"""

from dataclasses import dataclass
from math import ceil

from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.sizing.model_size import ModelSize
from training.zero.config import (
    ALLREDUCE_BUCKET_ELEMENTS,
    MUON_BUCKET_ELEMENTS,
    choose_buffers,
    reduces_to_owners,
)

QUANTISED_GRADIENT_BYTES = 0.5
"""An element of gradients in 4 bits (ZeRO++, arXiv 2306.10209); the scales are left out."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends, by when."""

    per_pass: float
    """In each forward and backward pass, to ranks everywhere."""

    per_pass_near: float
    """In each pass, to ranks of its own machine alone (hierarchical partitioning, ZeRO++)."""

    gradients_per_step: float
    """In or after the last pass of a step."""

    weights_per_step: float
    """After the optimizer's update."""

    host_per_pass: float
    """To its host, for an offloaded optimizer."""

    host_per_step: float


def predict_traffic(size: ModelSize, config: TrainConfig, placement: Placement) -> Traffic:
    """Return what a rank of a placement without anything left open sends."""
    ranks, stage = placement.num_ranks, placement.zero_stage
    share = (ranks - 1) / ranks
    width = 2 if config.precision == "bf16" else 4
    weights = share * width * size.num_parameters
    gradients = share * (2 if config.reduce_precision == "bf16" else 4) * size.num_trained
    muon = share * 2 * 4 * size.num_muon / ranks if stage else 0.0  # pieces of matrices to one rank, and back
    to_host = _host(size, placement, width=width)
    if stage == 3:
        near = _secondary(size, config, placement, width=width)
        gather = weights / width if config.zero_quantized_weights else weights
        sent = share * QUANTISED_GRADIENT_BYTES * size.num_trained if config.zero_quantized_gradients else gradients
        return Traffic((gather if near else 2 * gather) + sent, near, 0.0, muon, *to_host)
    if not reduces_to_owners(placement, num_trained=size.num_trained):
        gradients *= 2
    if stage == 0:
        return Traffic(0.0, 0.0, gradients, 0.0, 0.0, 0.0)
    updated = share * width * size.num_trained + muon
    if stage == 2:
        return Traffic(gradients, 0.0, 0.0, updated, *to_host)
    return Traffic(0.0, 0.0, gradients, updated, *to_host)


@dataclass(frozen=True)
class Collectives:
    """How many collectives there are, by when, as in Traffic."""

    per_pass: int
    gradients_per_step: int
    weights_per_step: int


def count_collectives(size: ModelSize, placement: Placement) -> Collectives:
    """Count the collectives of a placement without anything left open: about, for what each takes to begin.

    Gradients are reduced bucket by bucket, weights gathered in pieces as large as DeepSpeed's own default; in stage 3
    every layer is gathered in the forward and in the backward pass. A round of Muon's update has two. What is as small
    as a gradient's norm is left out.
    """
    stage = placement.zero_stage
    buffers = choose_buffers(
        placement.deepspeed.zero_optimization,
        device=placement.device,
        zero_stage=stage,
        num_trained=size.num_trained,
    )
    bucket = buffers.reduce_bucket if stage else ALLREDUCE_BUCKET_ELEMENTS
    reductions = ceil(size.num_trained / bucket)
    muon = 2 * ceil(size.num_muon / placement.num_ranks / MUON_BUCKET_ELEMENTS) if stage else 0
    if stage == 3:
        return Collectives(2 * (size.num_layers + 1) + reductions, 0, muon)
    weights = muon + (ceil(size.num_trained / ALLREDUCE_BUCKET_ELEMENTS) if stage else 0)
    return Collectives(reductions, 0, weights) if stage == 2 else Collectives(0, reductions, weights)


def _secondary(size: ModelSize, config: TrainConfig, placement: Placement, *, width: int) -> float:
    """Return the bytes of the gather of a backward pass from the second copy in a machine; 0 without such a copy."""
    buffers = choose_buffers(
        placement.deepspeed.zero_optimization,
        device=placement.device,
        zero_stage=placement.zero_stage,
        num_trained=size.num_trained,
    )
    near = buffers.num_secondary_ranks
    return (near - 1) / near * (1 if config.zero_quantized_weights else width) * size.num_parameters


def _host(size: ModelSize, placement: Placement, *, width: int) -> tuple[float, float]:
    """Return the bytes between a GPU and its host in a pass and in a step: fp32 gradients there, weights back."""
    if not placement.offload_optimizer or placement.device == "cpu":
        return 0.0, 0.0
    gradients = 4 * size.num_trained / placement.num_ranks
    weights = width * size.num_trained / placement.num_ranks
    return (gradients, weights) if placement.zero_stage > 1 else (0.0, gradients + weights)
