"""How long an optimizer step takes, by its FLOPs, what it moves through memory, and what its ranks exchange.

Pure arithmetic, for `concord plan` where nothing was measured, and to carry what was measured over to another layout.
docs/planning.md explains the terms.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from cluster.devices import device_by_ray_name, peak_of
from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.sizing.fit import sequences_per_rank
from training.sizing.model_size import ModelSize
from training.sizing.traffic import count_collectives, predict_traffic
from training.zero.config import choose_buffers

UPDATE_BYTES = 30
"""Bytes an element that an update by AdamW moves: it reads gradient, weight and two moments in fp32, writes all but the
gradient, and the weight in bf16."""

REFERENCE_GPUS = 8
"""GPUs of a machine, and below the GB/s of its network, where it is only known what its GPUs are."""

UNKNOWN_NETWORK = 12.5
"""100 Gbit/s: that of a machine whose maker has no reference machine with a network."""


@dataclass(frozen=True)
class Assumed:
    """What a device is taken to reach where nothing was measured: one end of what is assumed, or its middle."""

    share: float
    """From 0 to 1: from the low to the high share of the peak that a device reaches (Device.reached)."""

    wire: float
    """Share of the bandwidth of memory and links in data sheets that is reached. nccl-tests are published with 0.75
    and more within a machine."""

    host_memory: float
    """Bytes a second of a host's memory, for an offloaded optimizer: 8 channels of DDR4 to 12 of DDR5."""

    layer_seconds: float
    """In which the host launches the kernels of a layer's forward and backward pass: 150 of 2 to 10 microseconds each.
    Models of some million parameters take no less."""

    overlaps: bool
    """Whether what may be exchanged while a pass computes costs nothing as long as the pass takes."""


SLOW = Assumed(0.0, 0.6, 1e11, 1.5e-3, overlaps=False)
FAST = Assumed(1.0, 0.9, 3e11, 0.3e-3, overlaps=True)
LIKELY = Assumed(0.5, 0.75, 2e11, 0.9e-3, overlaps=False)
"""What unlike devices are compared by. That nothing is hidden is cautious: it speaks for less exchange, so for a lower
ZeRO stage, and against a slow network."""


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

    collective_seconds: float = 0.0
    """What each collective takes however little it sends, where that was measured."""


def flops_of(member: Placement, precision: str, assumed: Assumed) -> float | None:
    """Return the FLOP/s that a rank of one kind of devices is assumed to reach; None where that is not known."""
    device = device_by_ray_name(member.accelerator)
    peak = peak_of(device, precision)
    if device is None or peak is None:
        return None
    low, high = device.reached
    return peak * (low + assumed.share * (high - low))


def are_on_one_machine(members: Sequence[Placement]) -> bool:
    """Return whether the ranks of some kinds are on one machine, by its name on CPUs.

    On GPUs kinds are taken to be in machines of their own, and so are more ranks of one than REFERENCE_GPUS.
    """
    if any(member.device == "cpu" for member in members):
        return len({host for member in members for host in member.hosts}) == 1
    return len(members) == 1 and members[0].num_ranks <= REFERENCE_GPUS


def slowest_link(members: Sequence[Placement]) -> float | None:
    """Return the GB/s of the slowest link of a ring through the ranks of some kinds; None on CPUs, or if not known."""
    found = [_links(member) for member in members]
    if any(one is None for one in found):
        return None
    one_machine = are_on_one_machine(members)
    return min(near if one_machine else min(near, far) for near, far in filter(None, found))


def _links(member: Placement) -> tuple[float, float] | None:
    """Return the GB/s of a device to others of its machine, and of the machine to others."""
    device = device_by_ray_name(member.accelerator)
    if device is None or device.links is None:
        return None
    if member.network_gbps_per_node is not None:
        return device.links.gpus, member.network_gbps_per_node / 8
    share = device.links.network_share
    return device.links.gpus, UNKNOWN_NETWORK if share is None else share * REFERENCE_GPUS


def member_reach(member: Placement, *, flops: float, far: float | None, assumed: Assumed, whole: bool = False) -> Reach:
    """Return what a rank of one kind of devices reaches, in a ring whose slowest link has `far` GB/s.

    `whole` says that the FLOP/s are of whole steps, with all that they move through memory.
    """
    device = device_by_ray_name(member.accelerator)
    memory = device.memory_gb_per_second if device and not whole else None
    links = device.links if device else None

    def bytes_per_second(gb: float | None) -> float | None:
        return gb * 1e9 * assumed.wire if gb else None

    return Reach(
        flops=flops,
        memory_bytes=bytes_per_second(memory),
        near_bytes=bytes_per_second(links.gpus if links else None),
        far_bytes=bytes_per_second(far),
        host_bytes=bytes_per_second(links.host if links else None),
        host_memory_bytes=assumed.host_memory / REFERENCE_GPUS,
        layer_seconds=assumed.layer_seconds if member.device != "cpu" else 0.0,
        overlaps=assumed.overlaps,
    )


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
    one_pass = (compute + recompute + passes) / num_passes
    sent = predict_exchange(size, config, placement, reach)
    in_pass = max(0.0, sent.per_pass - one_pass) if sent.overlaps else sent.per_pass
    exchange = num_passes * in_pass + sent.exposed_gradients(one_pass) + sent.weights
    update = predict_update(size, config, placement, num_passes=num_passes, reach=reach)
    return StepTime(compute, recompute, passes, exchange, update)


def predict_pass(
    size: ModelSize,
    config: TrainConfig,
    placement: Placement,
    *,
    num_sequences: int,
    flops: float,
    reach: Reach,
) -> float:
    """Predict the seconds of a forward and backward pass by itself; `flops` are all that are executed for a token."""
    computing = num_sequences * config.sequence_length * flops / reach.flops
    moving = _pass_bytes(size, config, placement) / reach.memory_bytes if reach.memory_bytes else 0.0
    launching = size.num_layers * reach.layer_seconds * (1 + placement.activation_checkpointing / 3)
    return max(computing + moving, launching)


def _pass_bytes(size: ModelSize, config: TrainConfig, placement: Placement) -> float:
    """Return the bytes of a device's memory that a pass touches beside activations.

    Weights are read in the forward pass and twice in the backward pass, once more if it recomputes; gradients are
    written, read, and added to their sum in fp32, which is read and written.
    """
    width = 2 if config.precision == "bf16" else 4
    reads = 4 if placement.activation_checkpointing else 3
    summed = size.num_trained / (placement.num_ranks if placement.zero_stage > 1 else 1)
    return reads * width * size.num_parameters + 2 * width * size.num_trained + 8 * summed


@dataclass(frozen=True)
class Exchange:
    """Seconds of what ranks exchange, as though nothing went on meanwhile."""

    per_pass: float
    gradients: float
    """Once a step, in or after the last pass."""

    weights: float
    """After the update."""

    overlaps: bool
    """Whether what is exchanged in a pass, and gradients, are hidden by what is computed meanwhile."""

    def exposed_gradients(self, pass_seconds: float) -> float:
        """Return what remains of `gradients` beside the last backward pass, two thirds of a pass."""
        return max(0.0, self.gradients - pass_seconds * 2 / 3) if self.overlaps else self.gradients


def predict_exchange(size: ModelSize, config: TrainConfig, placement: Placement, reach: Reach) -> Exchange:
    """Predict what the ranks of a placement without anything left open exchange."""
    if placement.num_ranks == 1 or reach.far_bytes is None:
        return Exchange(0.0, 0.0, 0.0, overlaps=False)
    traffic, number = predict_traffic(size, config, placement), count_collectives(size, placement)
    alpha, near_bytes = reach.collective_seconds, reach.near_bytes or reach.far_bytes
    in_pass = traffic.per_pass / reach.far_bytes + traffic.per_pass_near / near_bytes
    return Exchange(
        per_pass=in_pass + number.per_pass * alpha,
        gradients=traffic.gradients_per_step / reach.far_bytes + number.gradients_per_step * alpha,
        weights=traffic.weights_per_step / reach.far_bytes + number.weights_per_step * alpha,
        overlaps=reach.overlaps and _overlaps(size, placement),
    )


def _overlaps(size: ModelSize, placement: Placement) -> bool:
    return choose_buffers(
        placement.deepspeed.zero_optimization,
        device=placement.device,
        zero_stage=placement.zero_stage,
        num_trained=size.num_trained,
    ).overlaps


def predict_update(
    size: ModelSize, config: TrainConfig, placement: Placement, *, num_passes: int, reach: Reach
) -> float:
    """Predict the seconds of the optimizer, with the way to the host and back where it is offloaded."""
    own = size.num_trained / (placement.num_ranks if placement.zero_stage else 1)
    if placement.offload_optimizer:
        traffic = predict_traffic(size, config, placement)
        sent = num_passes * traffic.host_per_pass + traffic.host_per_step
        return UPDATE_BYTES * own / reach.host_memory_bytes + (sent / reach.host_bytes if reach.host_bytes else 0.0)
    return UPDATE_BYTES * own / reach.memory_bytes if reach.memory_bytes else 0.0
