"""How long an optimizer step takes, by its FLOPs, what it moves through memory, and what its ranks exchange.

Pure arithmetic, for `concord plan` where nothing was measured, and to carry what was measured over to another layout.
docs/planning.md explains the terms.
"""

from dataclasses import astuple, dataclass

from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.sizing.fit import sequences_per_rank
from training.sizing.model_size import ModelSize
from training.sizing.traffic import Traffic, predict_traffic
from training.zero.config import choose_buffers

UPDATE_BYTES = 30
"""Bytes an element that an update by AdamW moves: it reads gradient, weight and two moments in fp32, writes all but the
gradient, and the weight in bf16."""


@dataclass(frozen=True)
class Reach:
    """What one rank reaches, at one end of a range. All are per second."""

    flops: float
    """FLOP/s of the passes, with all that is no product of matrices."""

    memory_bytes: float | None
    """Bytes a second of the device's memory; None where it is not known."""

    near_bytes: float | None
    """To the ranks of its own machine, in one direction; None where it is not known, or there are none."""

    far_bytes: float | None
    """To ranks everywhere: the slowest link of a ring through all; None where it is not known, or there is one rank."""

    host_bytes: float | None
    """Between a GPU and its host."""

    host_memory_bytes: float
    """A rank's share of the bandwidth of its host's memory."""

    layer_seconds: float
    """What the host takes to launch the kernels of a layer's forward and backward pass: no pass is shorter."""

    overlaps: bool
    """Whether what may be exchanged while a pass computes costs nothing as long as the pass takes."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step by part; of the rank with most sequences."""

    compute: float
    """Forward and backward passes, without what is recomputed."""

    recompute: float
    passes: float
    """What each pass costs, however few sequences it has: weights and gradients that it moves through memory, and time
    in which the device waits for its host to launch kernels."""

    exchange: float
    """What the passes and the update wait for of other ranks."""

    update: float
    """The optimizer, with the way to the host and back where it is offloaded."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return float(sum(astuple(self)))


def predict_step(
    size: ModelSize,
    config: TrainConfig,
    placement: Placement,
    *,
    flops: float,
    recomputed_flops: float,
    reach: Reach,
) -> StepTime:
    """Predict a step of a placement without anything left open.

    `flops` are those executed for a token without recomputation, `recomputed_flops` those that it adds.
    """
    sequences = sequences_per_rank(config, placement)
    tokens = sequences * config.sequence_length
    num_passes = -(-sequences // placement.micro_batch_size)
    compute, recompute = tokens * flops / reach.flops, tokens * recomputed_flops / reach.flops
    moved = _pass_bytes(size, config, placement)
    passes = num_passes * moved / reach.memory_bytes if reach.memory_bytes else 0.0
    launched = num_passes * size.num_layers * reach.layer_seconds * (1 + bool(recompute) / 3)
    passes += max(0.0, launched - (compute + recompute + passes))
    traffic = predict_traffic(size, config, placement)
    one_pass = (compute + recompute + passes) / num_passes
    exchange = _exchange(traffic, size, placement, num_passes=num_passes, one_pass=one_pass, reach=reach)
    update = _update(traffic, size, placement, num_passes=num_passes, reach=reach)
    return StepTime(compute, recompute, passes, exchange, update)


def _pass_bytes(size: ModelSize, config: TrainConfig, placement: Placement) -> float:
    """Return the bytes of a device's memory that a pass touches beside activations.

    Weights are read in the forward pass and twice in the backward pass, once more if it recomputes; gradients are
    written, read, and added to their sum in fp32, which is read and written.
    """
    width = 2 if config.precision == "bf16" else 4
    reads = 4 if placement.activation_checkpointing else 3
    summed = size.num_trained / (placement.num_ranks if placement.zero_stage > 1 else 1)
    return reads * width * size.num_parameters + 2 * width * size.num_trained + 8 * summed


def _exchange(
    traffic: Traffic, size: ModelSize, placement: Placement, *, num_passes: int, one_pass: float, reach: Reach
) -> float:
    if placement.num_ranks == 1 or reach.far_bytes is None:
        return 0.0
    in_pass = traffic.per_pass / reach.far_bytes + traffic.per_pass_near / (reach.near_bytes or reach.far_bytes)
    gradients = traffic.gradients_per_step / reach.far_bytes
    if reach.overlaps and _overlaps(size, placement):
        in_pass = max(0.0, in_pass - one_pass)
        gradients = max(0.0, gradients - one_pass * 2 / 3)  # in the last backward pass, two thirds of a pass
    return num_passes * in_pass + gradients + traffic.weights_per_step / reach.far_bytes


def _overlaps(size: ModelSize, placement: Placement) -> bool:
    return choose_buffers(
        placement.deepspeed.zero_optimization,
        device=placement.device,
        zero_stage=placement.zero_stage,
        num_trained=size.num_trained,
    ).overlaps


def _update(traffic: Traffic, size: ModelSize, placement: Placement, *, num_passes: int, reach: Reach) -> float:
    own = size.num_trained / (placement.num_ranks if placement.zero_stage else 1)
    if placement.offload_optimizer:
        sent = num_passes * traffic.host_per_pass + traffic.host_per_step
        return UPDATE_BYTES * own / reach.host_memory_bytes + (sent / reach.host_bytes if reach.host_bytes else 0.0)
    return UPDATE_BYTES * own / reach.memory_bytes if reach.memory_bytes else 0.0
