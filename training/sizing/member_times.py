"""What unlike devices of a pool do by themselves: the passes that each holds, what these take, and what it exchanges.

Passes take what the store has of all members that have ranks. Where it lacks one, all are taken to reach shares of
their data sheets (Assumed): one that is measured beside one that is assumed would be no comparison. The ranks exchange
by the link that the store has of the same devices, else by the network of the pool or of the maker's reference machine.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import inf
from pathlib import Path

from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.allocation.choice import Members
from training.allocation.known_links import Link, find_link
from training.allocation.known_times import (
    StoreTimes,
    describe_model,
    find_pass_seconds,
    in_proportion,
    read_store_times,
)
from training.sizing.activations import expected_attention
from training.sizing.fit import CPU_SEQUENCES, GPU_PASS_TOKENS, LayoutChoice, make_layout
from training.sizing.flops import executed_flops_per_token
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import ModelParameters
from training.sizing.step_time import (
    LIKELY,
    Assumed,
    Reach,
    are_on_one_machine,
    flops_of,
    member_reach,
    predict_pass,
    slowest_link,
)

LARGER_PASSES = 4
"""Passes may have so many times more tokens than keep a GPU busy: in one that all wait for, fast devices do more."""

RECOMPUTED = 4 / 3
"""Where the FLOPs are not known, a pass that recomputes activations takes so many times as long: 8 FLOPs for 6."""

Table = Mapping[int, "MeasuredPasses"]
"""By member what its passes take."""


@dataclass(frozen=True)
class MeasuredPasses:
    """What passes of 1, 2, ... sequences take on a member's devices, as the store has it."""

    seconds: tuple[float, ...]
    is_scaled: bool
    """Whether they were measured without recomputation and are told with it, or the other way round: by the FLOPs."""


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

    times: StoreTimes = field(default_factory=StoreTimes)
    """What the store knows of passes and collectives."""

    layouts: dict[tuple[int, bool, int, int], LayoutChoice] = field(default_factory=dict, compare=False)
    """Those that were looked for already: by member, whether it recomputes activations, number of ranks and stage."""

    passes: dict[tuple[int, bool, bool], MeasuredPasses | None] = field(default_factory=dict, compare=False)
    """The same: by member, whether it recomputes activations, and whether weights are gathered."""

    flops: dict[tuple[str, bool], float | None] = field(default_factory=dict, compare=False)
    """The same, of a token: by implementation of attention, and whether activations are recomputed."""

    @property
    def present(self) -> Members:
        """The members that have ranks."""
        return tuple(number for number, one in enumerate(self.placement.members) if one.num_ranks)

    @property
    def is_elastic(self) -> bool:
        """Whether the training goes on with fewer ranks."""
        return any(one.num_ranks > one.min_ranks for one in self.placement.members)

    @cached_property
    def measured(self) -> Table | None:
        """The times of the members that have ranks, without weights that are gathered; None if the store lacks any.

        Where those were not measured it is the times with gathering: no wait for other ranks is in either. What had to
        be scaled to the other recomputation comes last.
        """
        return _least_scaled(_find_table(self, gathers=False), _find_table(self, gathers=True))

    @cached_property
    def measured_gathering(self) -> Table | None:
        """The same in ZeRO 3, where the times with gathering come first."""
        return _least_scaled(_find_table(self, gathers=True), _find_table(self, gathers=False))


def make_job(
    model: ModelParameters, size: ModelSize, config: TrainConfig, placement: Placement, *, store: Path | None
) -> MembersJob:
    """Return a training on a pool with members, with what the store knows of it; nothing is known without one."""
    return MembersJob(model, size, config, placement, times=read_store_times(store))


def with_recomputing(job: MembersJob, recomputing: Members) -> MembersJob:
    """Return the job with it settled who recomputes activations: these members, and no others."""
    own = tuple(
        replace(
            one,
            activation_checkpointing=number in recomputing,
            leaves_open=tuple(name for name in one.leaves_open if name != "activation_checkpointing"),
        )
        for number, one in enumerate(job.placement.members)
    )
    return replace(job, placement=replace(job.placement, members=own))


def recomputing_members(placement: Placement) -> Members:
    """Return the members that recompute activations, as far as that is settled."""
    return tuple(number for number, one in enumerate(placement.members) if one.activation_checkpointing)


def _find_table(job: MembersJob, *, gathers: bool) -> Table | None:
    """Return what passes take on each member that has ranks; None if the store does not know it of all."""
    found = {number: _find_measured(job, number, gathers=gathers) for number in job.present}
    known = {number: passes for number, passes in found.items() if passes is not None}
    return known if known and len(known) == len(found) else None


def _least_scaled(*tables: Table | None) -> Table | None:
    """Return the first of the tables in which the times of the fewest members are scaled; None if there is none."""
    known = [table for table in tables if table is not None]
    return min(known, key=lambda table: sum(one.is_scaled for one in table.values()), default=None)


def measured_in(job: MembersJob, stage: int) -> Table | None:
    """Return the times that hold in a ZeRO stage; None if the store lacks those of any member that has ranks."""
    return job.measured_gathering if stage == 3 else job.measured


def _find_measured(job: MembersJob, number: int, *, gathers: bool) -> MeasuredPasses | None:
    own = job.placement.members[number]
    key = (number, own.activation_checkpointing, gathers)
    if key not in job.passes:
        model, most = describe_model(job.config, vocab_size=job.size.vocab_size), _most_sequences(job.config, own)
        other = replace(own, activation_checkpointing=not own.activation_checkpointing)
        seconds, others = (
            find_pass_seconds(job.times, one, model=model, most=most, gathers=gathers) for one in (own, other)
        )
        if seconds is not None:
            job.passes[key] = MeasuredPasses(seconds, is_scaled=False)
        else:
            job.passes[key] = None if others is None else _scaled(job, own, other, others, most)
    return job.passes[key]


def _scaled(job: MembersJob, own: Placement, other: Placement, seconds: Sequence[float], most: int) -> MeasuredPasses:
    """Return what passes take a member by those of the `other` setting of recomputation, those above in proportion."""
    flops, of_other = (_flops_per_token(job, one) for one in (own, other))
    if flops is not None and of_other is not None:
        ratio = flops / of_other
    else:
        ratio = RECOMPUTED if own.activation_checkpointing else 1 / RECOMPUTED
    more = own.emulated_seconds_per_sequence or 0.0
    every = enumerate(in_proportion(seconds, most), 1)
    own_seconds = ((spent - size * more) * ratio + size * more for size, spent in every)
    return MeasuredPasses(tuple(accumulate(own_seconds, max)), is_scaled=True)


def measured_members(job: MembersJob) -> Members:
    """Return the members with ranks of whose passes the store knows something, be it only of some of them."""
    return tuple(
        number
        for number in job.present
        if any(_find_measured(job, number, gathers=gathers) is not None for gathers in (False, True))
    )


def placement_of(job: MembersJob, number: int, num_ranks: int, stage: int) -> Placement:
    """Return the layout of the ranks of a member among so many ranks in all."""
    least = job.placement.min_ranks if job.is_elastic else num_ranks
    own = job.placement.members[number]
    return replace(own, num_ranks=num_ranks, min_ranks=least, zero_stage=stage)


def largest_layout(job: MembersJob, number: int, num_ranks: int, stage: int) -> LayoutChoice:
    """Return the layout of a member with the most sequences a pass that fit among so many ranks, or the fewest."""
    own = placement_of(job, number, num_ranks, stage)
    key = (number, own.activation_checkpointing, num_ranks, stage)
    if key in job.layouts:
        return job.layouts[key]
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


def count_ranks(job: MembersJob, members: Members) -> int:
    """Return the ranks of some members."""
    return sum(job.placement.members[number].num_ranks for number in members)


def speeds_are_known(job: MembersJob, members: Members) -> bool:
    """Return whether it is known what a pass takes on the devices of some members."""
    return all(seconds_per_sequence(job, number) is not None for number in members)


def seconds_per_sequence(job: MembersJob, number: int) -> float | None:
    """Return what a sequence takes on a member's devices: measured, or by their FLOPs and emulated; None if unknown."""
    if job.measured is not None and number in job.measured:
        return min(seconds / size for size, seconds in enumerate(job.measured[number].seconds, 1))
    member = job.placement.members[number]
    flops, rate = _flops_per_token(job, member), _flops(job, number)
    own = None if flops is None or rate is None else flops * job.config.sequence_length / rate.flops
    return sum(seconds for seconds in (own, member.emulated_seconds_per_sequence) if seconds) or None


def _flops(job: MembersJob, number: int) -> KnownSpeed | None:
    known = job.known[number] if job.known else None
    if known is not None:
        return known
    assumed = flops_of(job.placement.members[number], job.config.precision, job.assumed)
    return None if assumed is None else KnownSpeed(assumed)


def _flops_per_token(job: MembersJob, member: Placement) -> float | None:
    key = (expected_attention(job.config, member), member.activation_checkpointing)
    if key not in job.flops:
        attention, recomputes = key
        job.flops[key] = executed_flops_per_token(
            job.model.config,
            job.model.shapes,
            sequence_length=job.config.sequence_length,
            attention=attention,
            recomputes=recomputes,
        )
    return job.flops[key]


def pass_seconds(job: MembersJob, placed: Placement, number: int, most: int, reach: Reach) -> tuple[float, ...]:
    """Return what passes of 1, 2, ... sequences take a member, as many as it holds."""
    table = measured_in(job, placed.zero_stage)
    if table is not None:
        return table[number].seconds[:most]
    flops, more = _flops_per_token(job, placed) or 0.0, placed.emulated_seconds_per_sequence or 0.0
    return tuple(
        predict_pass(job.size, job.config, placed, num_sequences=n, flops=flops, reach=reach) + n * more
        for n in range(1, most + 1)
    )


def reach_of(job: MembersJob, members: Members, number: int) -> Reach:
    """Return what a rank of a member reaches beside those of the other members."""
    own, speed = [job.placement.members[one] for one in members], _flops(job, number)
    rate, whole = (speed.flops, speed.whole) if speed else (inf, False)
    far = slowest_link(own)
    reach = member_reach(job.placement.members[number], flops=rate, far=far, assumed=job.assumed, whole=whole)
    link = link_of(job, members)
    if link is None:
        return reach
    alpha = link.alpha_seconds * (count_ranks(job, members) - 1) / max(1, link.num_ranks - 1)  # rounds of a ring
    return replace(reach, far_bytes=link.bytes_per_second, collective_seconds=alpha)


def link_of(job: MembersJob, members: Members) -> Link | None:
    """Return the link that the store has of the devices of some members.

    There is none for CPUs whose passes were not measured: what these take is not known, but for what is emulated.
    """
    own = [job.placement.members[number] for number in members]
    if job.measured is None and any(one.device == "cpu" for one in own):
        return None
    return find_link(job.times.links, own, one_machine=are_on_one_machine(own))
