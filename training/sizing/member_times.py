"""What unlike devices of a pool can do together: the passes that each holds, what these take, and what ranks exchange.

Where nothing was measured, a device is taken to reach shares of its data sheet (Assumed), and a network to be that of
the maker's reference machine.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf

from cluster.devices import Device, device_by_ray_name
from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.allocation.choice import Candidate, Members, sets_of_types
from training.allocation.devices import DeviceType
from training.sizing.attention import expected_attention
from training.sizing.fit import CPU_SEQUENCES, GPU_PASS_TOKENS, LayoutChoice, make_layout, possible_stages
from training.sizing.flops import executed_flops_per_token
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import ModelParameters
from training.sizing.step_time import LIKELY, Assumed, Reach, predict_exchange, predict_pass, predict_update

LARGER_PASSES = 4
"""Passes may have so many times more tokens than keep a GPU busy: in one that all wait for, fast devices do more."""


REFERENCE_GPUS = 8
"""GPUs of a machine, and below the GB/s of its network, where it is only known what its GPUs are."""

UNKNOWN_NETWORK = 12.5
"""100 Gbit/s: that of a machine whose maker has no reference machine with a network."""


def peak_of(device: Device | None, precision: str) -> float | None:
    """Return the FLOP/s of a device's data sheet in bf16, else fp16; None if not known, or for fp32."""
    if device is None or precision == "fp32":
        return None
    return device.peak_flops.get("bf16", device.peak_flops.get("fp16"))


def flops_of(member: Placement, precision: str, assumed: Assumed) -> float | None:
    """Return the FLOP/s that a rank of one kind of devices is assumed to reach; None where that is not known."""
    device = device_by_ray_name(member.kind) if member.device != "cpu" else None
    peak = peak_of(device, precision)
    if device is None or peak is None:
        return None
    low, high = device.reached
    return peak * (low + assumed.share * (high - low))


def slowest_link(members: Sequence[Placement], networks: Sequence[float | None]) -> float | None:
    """Return the GB/s of the slowest link of a ring through the ranks of some kinds; None on CPUs, or if not known.

    `networks` are those of a machine of each kind, where they are known. Kinds are taken to be in machines of their
    own, and so are more ranks of one than REFERENCE_GPUS.
    """
    found = [_links(member, network) for member, network in zip(members, networks, strict=True)]
    if any(one is None for one in found):
        return None
    one_machine = len(members) == 1 and members[0].num_ranks <= REFERENCE_GPUS
    return min(near if one_machine else min(near, far) for near, far in filter(None, found))


def _links(member: Placement, network: float | None) -> tuple[float, float] | None:
    """Return the GB/s of a device to others of its machine, and of the machine to others."""
    device = device_by_ray_name(member.kind) if member.device != "cpu" else None
    if device is None or device.links is None:
        return None
    if network is None:
        share = device.links.network_share
        network = UNKNOWN_NETWORK if share is None else share * REFERENCE_GPUS
    return device.links.gpus, network


def member_reach(member: Placement, *, flops: float, far: float | None, assumed: Assumed, whole: bool = False) -> Reach:
    """Return what a rank of one kind of devices reaches, in a ring whose slowest link has `far` GB/s.

    `whole` says that the FLOP/s are of whole steps, with all that they move through memory.
    """
    device = device_by_ray_name(member.kind) if member.device != "cpu" else None
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
class KnownSpeed:
    """What is known of one kind of devices beside their data sheets."""

    flops: float
    whole: bool = False
    """Whether the FLOP/s are of whole steps, with all that they move through memory."""


@dataclass(frozen=True)
class MembersJob:
    """A training on a pool with members, of which something is to be chosen or predicted."""

    model: ModelParameters
    size: ModelSize
    config: TrainConfig
    placement: Placement
    """The layout of all members, with stage and micro-batch left open or not."""

    assumed: Assumed = LIKELY
    known: tuple[KnownSpeed | None, ...] = ()
    """What is known of the members' devices, in their order; empty if nothing is."""

    networks: tuple[float | None, ...] = ()
    """GB/s of the network of a machine of each; empty where nothing is known of it."""

    layouts: dict[tuple[int, int, int], LayoutChoice] = field(default_factory=dict, compare=False)
    """Those that were looked for already: by member, stage and number of ranks."""

    @property
    def present(self) -> Members:
        """The members that have ranks."""
        return tuple(number for number, one in enumerate(self.placement.members) if one.num_ranks)

    @property
    def is_elastic(self) -> bool:
        """Whether the training goes on with fewer ranks."""
        return any(one.num_ranks > one.min_ranks for one in self.placement.members)


def find_candidates(
    job: MembersJob, members: Members, *, stages: Sequence[int] | None = None, recomputing: bool = False
) -> list[Candidate]:
    """Return how some of the members can train together, by stage; nothing if their memory holds none.

    With `recomputing` all recompute activations, whatever the pool says.
    """
    if recomputing:
        own = tuple(replace(one, activation_checkpointing=True) for one in job.placement.members)
        job = replace(job, placement=replace(job.placement, members=own), layouts={})
    wanted = possible_stages(job.config, job.placement) if stages is None else stages
    found = [_candidate(job, members, stage) for stage in wanted]
    return [one for one in found if one is not None]


def placement_of(job: MembersJob, number: int, num_ranks: int, stage: int) -> Placement:
    """Return the layout of the ranks of a member among so many ranks in all."""
    least = job.placement.min_ranks if job.is_elastic else num_ranks
    own = job.placement.members[number]
    return replace(own, num_ranks=num_ranks, min_ranks=least, zero_stage=stage)


def largest_layout(job: MembersJob, number: int, num_ranks: int, stage: int) -> LayoutChoice:
    """Return the layout of a member with the most sequences a pass that fit among so many ranks, or the fewest."""
    key = (number, num_ranks, stage)
    if key in job.layouts:
        return job.layouts[key]
    own = placement_of(job, number, num_ranks, stage)
    most = _most_sequences(job.config, own)
    is_fixed = "micro_batch_size" not in own.leaves_open or own.memory_bytes_per_rank is None
    sizes = range(most if is_fixed else 1, most + 1)

    def fails(rows: int) -> bool:
        return not make_layout(job.size, job.config, own, stage, rows).fits

    rows = sizes[max(0, bisect_left(sizes, True, key=fails) - 1)]
    job.layouts[key] = make_layout(job.size, job.config, own, stage, rows)
    return job.layouts[key]


def _most_sequences(config: TrainConfig, member: Placement) -> int:
    """Return the most sequences of a pass that are tried: what the pool says, or more than keep a device busy."""
    if "micro_batch_size" not in member.leaves_open or member.memory_bytes_per_rank is None:
        return member.micro_batch_size
    useful = LARGER_PASSES * GPU_PASS_TOKENS // config.sequence_length
    return max(1, min(config.global_batch_size, CPU_SEQUENCES if member.device == "cpu" else useful))


def possible_sets(job: MembersJob) -> Iterator[Members]:
    """Yield the sets of members that may train alone: of an elastic pool no fewer ranks than it may shrink to."""
    rates = [1 / max(seconds_per_sequence(job, number) or 0.0, 1e-12) for number in job.present]
    least = job.placement.min_ranks if job.is_elastic else 1
    for places in sets_of_types(rates):
        members = tuple(job.present[place] for place in places)
        if count_ranks(job, members) >= least:
            yield members


def count_ranks(job: MembersJob, members: Members) -> int:
    """Return the ranks of some members."""
    return sum(job.placement.members[number].num_ranks for number in members)


def speeds_are_known(job: MembersJob, members: Members) -> bool:
    """Return whether it is known what a pass takes on the devices of some members."""
    return all(seconds_per_sequence(job, number) is not None for number in members)


def seconds_per_sequence(job: MembersJob, number: int) -> float | None:
    """Return what a sequence takes on a member's devices by their FLOPs, or is let take; None if neither is known."""
    member = job.placement.members[number]
    flops, rate = _flops_per_token(job, member), _flops(job, number)
    own = None if flops is None or rate is None else flops * job.config.sequence_length / rate.flops
    return max((seconds for seconds in (own, member.emulated_seconds_per_sequence) if seconds), default=None)


def _flops(job: MembersJob, number: int) -> KnownSpeed | None:
    known = job.known[number] if job.known else None
    if known is not None:
        return known
    assumed = flops_of(job.placement.members[number], job.config.precision, job.assumed)
    return None if assumed is None else KnownSpeed(assumed)


def _flops_per_token(job: MembersJob, member: Placement) -> float | None:
    return executed_flops_per_token(
        job.model.config,
        job.model.shapes,
        sequence_length=job.config.sequence_length,
        attention=expected_attention(job.config, member),
        recomputes=member.activation_checkpointing,
    )


def _candidate(job: MembersJob, members: Members, stage: int) -> Candidate | None:
    """Return how some members train in a stage; None if the memory of one does not hold a sequence, or it may not be.

    ZeRO 2 reduces gradients in every pass: with one reduction a step it would take the memory and time of ZeRO 1.
    """
    num_ranks = count_ranks(job, members)
    secondary = job.placement.deepspeed.zero_optimization.zero_hpz_partition_size or 1
    recomputing = tuple(number for number in members if job.placement.members[number].activation_checkpointing)
    if num_ranks % secondary or (stage == 3 and recomputing and recomputing != members):
        return None
    layouts = [largest_layout(job, number, num_ranks, stage) for number in members]
    if not all(layout.fits for layout in layouts):
        return None
    own = [job.placement.members[number] for number in members]
    far = slowest_link(own, [job.networks[number] if job.networks else None for number in members])
    a_pass = sum(one.num_ranks * layout.micro_batch_size for one, layout in zip(own, layouts, strict=True))
    num_passes = ceil(job.config.global_batch_size / a_pass)
    devices, updates, exchanges = [], [], []
    for number, layout in zip(members, layouts, strict=True):
        placed = placement_of(job, number, num_ranks, stage)
        speed = _flops(job, number)
        rate, whole = (speed.flops, speed.whole) if speed else (inf, False)
        reach = member_reach(placed, flops=rate, far=far, assumed=job.assumed, whole=whole)
        flops = _flops_per_token(job, placed) or 0.0
        seconds = []
        for rows in range(1, layout.micro_batch_size + 1):
            a_time = predict_pass(job.size, job.config, placed, num_sequences=rows, flops=flops, reach=reach)
            seconds.append(max(a_time, rows * (placed.emulated_seconds_per_sequence or 0.0)))
        name = placed.kind or f"member {number + 1}"
        devices.append(DeviceType(name, job.placement.members[number].num_ranks, tuple(seconds)))
        updates.append(predict_update(job.size, job.config, placed, num_passes=num_passes, reach=reach))
        exchanges.append(predict_exchange(job.size, job.config, placed, reach))
    slowest = max(exchanges, key=lambda one: one.per_pass)  # they differ by the links in a machine
    shortest = min(one.pass_seconds[0] for one in devices)
    return Candidate(
        members,
        tuple(devices),
        stage,
        recomputing=recomputing,
        step_seconds=slowest.exposed_gradients(shortest) + slowest.weights + max(updates),
        pass_seconds=slowest.per_pass,
        overlaps=slowest.overlaps,
    )
