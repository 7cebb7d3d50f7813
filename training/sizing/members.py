"""Chooses how unlike devices of a pool train: ZeRO stage, each kind's passes and recomputation, who takes part.

What is chosen hangs on the placement and the store alone, so that a plan and the run choose the same: on the memory of
each kind, and on what passes took on its devices or, where the store lacks that of any, on what these are assumed to
reach of their data sheets (training/sizing/member_times.py). The run measures what passes take where the store does not
know it yet, and shares each step by that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path

from cluster.placement import Placement
from configs.base import GIB, ConfigError
from configs.training.train import TrainConfig
from training.allocation.choice import (
    WORTH_LEAVING_OUT,
    Members,
    Option,
    allocate_evenly,
    choose_allocation,
    fastest_option,
)
from training.sizing.activations import why_not_attention
from training.sizing.candidates import find_candidates, may_recompute, possible_sets, recompute_alike, recomputing_sets
from training.sizing.fit import (
    LayoutChoice,
    find_remedy,
    make_layout,
    needed_bytes,
    needed_host_bytes,
    possible_stages,
)
from training.sizing.member_times import (
    MembersJob,
    count_ranks,
    largest_layout,
    make_job,
    placement_of,
    recomputing_members,
    speeds_are_known,
    with_recomputing,
)
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import ModelParameters

RECOMPUTE_ALIKE = "in ZeRO 3 all recompute activations or none, and its activation_checkpointing is not as the others'"
"""Why a member may not take part."""


@dataclass(frozen=True)
class MembersChoice:
    """How a pool of unlike devices trains."""

    job: MembersJob
    """What it was chosen for."""

    placement: Placement
    """With nothing left open; members that are left out have no ranks."""

    layouts: tuple[LayoutChoice, ...]
    """For each member that of its largest pass in the chosen stage, or of its smallest where none fits."""

    option: Option | None
    """How the step is predicted to be shared; None where the speed of a device is not known, or steps are even."""

    runner_up: Option | None
    remedy: str
    """What to change in the cluster file where nothing fits; empty where something does."""

    @property
    def tightest(self) -> LayoutChoice:
        """The layout of the member with the least room of those that take part; of one that does not fit if any."""

        def room(number: int) -> tuple[bool, float]:
            layout, own = self.layouts[number], self.placement.members[number]
            return layout.fits, (own.memory_bytes_per_rank or inf) - needed_bytes(layout, own.device)

        return self.layouts[min(self.used, key=room)]

    @property
    def used(self) -> Members:
        """The members that take part."""
        return tuple(number for number, one in enumerate(self.placement.members) if one.num_ranks)


def choose_members(
    model: ModelParameters, size: ModelSize, config: TrainConfig, placement: Placement, *, store: Path | None
) -> MembersChoice:
    """Choose the ZeRO stage, each member's most sequences of a pass, who recomputes activations, and who takes part.

    `store` is the directory that may have what passes took. What the pool fixes stays. Where a device's speed is not
    known, or steps are shared evenly, nobody is left out, and the stage is the lowest in which all fit, without
    recomputation if there is one. Raises ConfigError as choose_layout does.
    """
    for member in placement.members:
        if reason := why_not_attention(config, member):
            raise ConfigError(f"{member.kind}: {reason}")
    job = make_job(model, size, config, placement, store=store)
    if placement.balance == "even" or not speeds_are_known(job, job.present):
        return _without_speeds(job)
    found = choose_allocation(
        list(possible_sets(job)), lambda members: find_candidates(job, members), config.global_batch_size
    )
    if found is None:
        return _without_speeds(job)
    chosen = found.chosen
    reasons = {
        number: _why_without(job, chosen, number) for number in job.present if number not in chosen.candidate.members
    }
    options = (chosen, found.runner_up)
    way = chosen.candidate
    return _judge_absent(_settled(job, way.zero_stage, way.members, way.recomputing, reasons, options))


def _judge_absent(choice: MembersChoice) -> MembersChoice:
    """Return the choice with those left out, too, that have no ranks now and would slow the step if they joined."""
    members = list(choice.placement.members)
    for number, own in enumerate(members):
        if own.num_expected and not own.left_out and (reason := _why_not_later(choice, number)):
            members[number] = replace(own, left_out=reason)
    return replace(choice, placement=replace(choice.placement, members=tuple(members)))


def _why_not_later(choice: MembersChoice, number: int) -> str:
    """Return why a member without ranks now is not to join, in words; empty if it may, or that is not known."""
    job = with_recomputing(choice.job, recomputing_members(choice.placement))
    own = list(job.placement.members)
    own[number] = replace(own[number], num_ranks=own[number].num_expected)
    later = replace(job, placement=replace(job.placement, members=tuple(own)))
    together = tuple(sorted((*choice.used, number)))
    if not speeds_are_known(later, together):
        return ""

    joined, without = (
        fastest_option(
            find_candidates(later, members, stages=(choice.placement.zero_stage,)), job.config.global_batch_size
        )
        for members in (together, choice.used)
    )
    if joined is None or without is None or joined.seconds <= without.seconds * (1 + WORTH_LEAVING_OUT):
        return ""
    times = shown_times(joined.seconds, without.seconds)
    return "with the ranks that it may have the step takes {} and without {}".format(*times)


def _without_speeds(job: MembersJob) -> MembersChoice:
    """Choose the lowest stage in which all members fit as the pool has them, else where those that may recompute.

    Where there is none it is the last stage, and all that may recompute.
    """
    stages, num_ranks = possible_stages(job.config, job.placement), count_ranks(job, job.present)

    def fits(stage: int, recomputing: Members) -> bool:
        own = with_recomputing(job, recomputing)
        alike = recompute_alike(job.present, recomputing, stage)
        return alike and all(largest_layout(own, number, num_ranks, stage).fits for number in job.present)

    ways = [(stage, recomputing_members(job.placement)) for stage in stages]
    ways += [(stage, own) for stage in stages for own in recomputing_sets(job, job.present, stage)]
    ways.append((stages[-1], (*recomputing_members(job.placement), *may_recompute(job, job.present))))
    stage, recomputing = next((way for way in ways if fits(*way)), ways[-1])
    found = _settled(job, stage, job.present, recomputing, {}, (None, None))
    return replace(found, option=predict_members(job, found.placement))


def predict_members(job: MembersJob, settled: Placement) -> Option | None:
    """Return how those that take part share a step in the layout that was chosen, where their speeds are known."""
    used = tuple(number for number, one in enumerate(settled.members) if one.num_ranks)
    if not speeds_are_known(job, used):
        return None
    own = with_recomputing(job, recomputing_members(settled))
    candidates = find_candidates(own, used, stages=(settled.zero_stage,))
    if settled.balance == "even" and candidates:
        return allocate_evenly(candidates[0], job.config.global_batch_size, most=settled.micro_batch_size)
    return fastest_option(candidates, job.config.global_batch_size)


def _settled(
    job: MembersJob,
    stage: int,
    used: Members,
    recomputing: Members,
    reasons: dict[int, str],
    options: tuple[Option | None, Option | None],
) -> MembersChoice:
    """Return the choice of a stage and of the members that take part; `reasons` says why others do not.

    Of the members that have no ranks now, those recompute that would have to beside the others.
    """
    num_ranks, asked = count_ranks(job, used), job
    absent = set(range(len(job.placement.members))) - set(used)
    later = [number for number in absent if _recomputes_later(job, stage, used, recomputing, number)]
    job = with_recomputing(job, (*recomputing, *later))
    layouts = [largest_layout(job, number, num_ranks, stage) for number in range(len(job.placement.members))]
    if job.placement.balance == "even":
        least = min(layouts[number].micro_batch_size for number in used)
        most = ceil(job.config.global_batch_size / num_ranks)
        rows = ceil(most / ceil(most / least))
        if all("micro_batch_size" not in job.placement.members[number].leaves_open for number in used):
            rows = least
        layouts = [
            make_layout(job.size, job.config, placement_of(job, number, num_ranks, stage), stage, rows)
            for number in range(len(layouts))
        ]
    members = []
    for number, (own, layout) in enumerate(zip(job.placement.members, layouts, strict=True)):
        settled = replace(own, zero_stage=stage, micro_batch_size=layout.micro_batch_size, leaves_open=())
        if number in reasons:
            settled = replace(settled, num_ranks=0, min_ranks=0, left_out=reasons[number])
        elif not own.num_ranks and not own.left_out and not layout.fits:
            settled = replace(settled, left_out=_why_it_does_not_fit(own, layout))
        elif (
            not own.num_ranks
            and not own.left_out
            and not recompute_alike((*used, number), (*recomputing, *later), stage)
        ):
            settled = replace(settled, left_out=RECOMPUTE_ALIKE)
        members.append(settled)
    failing = [number for number in used if not layouts[number].fits]
    remedy = ""
    if failing:
        own = placement_of(job, failing[0], num_ranks, possible_stages(job.config, job.placement)[0])
        remedy = find_remedy(job.size, job.config, own)
    return MembersChoice(asked, _join(job, members, used, num_ranks), tuple(layouts), *options, remedy)


def _recomputes_later(job: MembersJob, stage: int, used: Members, recomputing: Members, number: int) -> bool:
    """Return whether a member would recompute activations beside those that take part: where it must."""
    if stage == 3 and may_recompute(job, (number,)):
        return bool(recomputing)
    return number in recomputing_sets(job, tuple(sorted((*used, number))), stage)[0]


def _join(job: MembersJob, members: Sequence[Placement], used: Members, num_ranks: int) -> Placement:
    """Return the layout of all members together: what is said of a rank is the least of those that take part."""
    own = [members[number] for number in used]
    device = [one.memory_bytes_per_rank for one in own]
    host = [one.host_bytes_per_rank for one in own]
    capabilities = [one.capability for one in own]
    first = own[0]
    return replace(
        job.placement,
        num_ranks=num_ranks,
        min_ranks=job.placement.min_ranks if job.is_elastic else num_ranks,
        zero_stage=first.zero_stage,
        micro_batch_size=min(one.micro_batch_size for one in own),
        activation_checkpointing=first.activation_checkpointing,
        cpus_per_rank=first.cpus_per_rank,
        cpu_share=first.cpu_share,
        attention=first.attention,
        emulated_seconds_per_sequence=first.emulated_seconds_per_sequence,
        memory_bytes_per_rank=None if None in device else min(filter(None, device)),
        host_bytes_per_rank=None if None in host else min(filter(None, host)),
        capability=None if None in capabilities else min(one for one in capabilities if one),
        leaves_open=(),
        members=tuple(members),
    )


def _why_without(job: MembersJob, chosen: Option, number: int) -> str:
    """Return why a member does not take part beside those that do, in words."""
    members = tuple(sorted((*chosen.candidate.members, number)))
    together = fastest_option(find_candidates(job, members), job.config.global_batch_size)
    if together is not None:
        return "the step takes {} with it and {} without".format(*shown_times(together.seconds, chosen.seconds))
    stage, num_ranks = possible_stages(job.config, job.placement)[-1], count_ranks(job, members)
    ways = [way for way in recomputing_sets(job, members, stage) if recompute_alike(members, way, stage)]
    if not ways:
        return RECOMPUTE_ALIKE
    layouts = [largest_layout(with_recomputing(job, way), number, num_ranks, stage) for way in ways]
    if all(not layout.fits for layout in layouts):
        return _why_it_does_not_fit(job.placement.members[number], layouts[-1])
    return "what the pool asks for does not go with it, as its number of ranks, or what the others have to recompute"


def _why_it_does_not_fit(member: Placement, layout: LayoutChoice) -> str:
    needed, there = needed_bytes(layout, member.device), member.memory_bytes_per_rank or 0
    where = ""
    if needed <= there:
        needed, there, where = needed_host_bytes(layout), member.host_bytes_per_rank or 0, " of its host"
    return f"its ranks need {needed / GIB:,.1f} GiB{where} in ZeRO {layout.zero_stage}, and have {there / GIB:,.1f}"


def shown_times(*seconds: float) -> list[str]:
    """Return times of steps in words: `1.31 s`, `48.2 ms`, with as many digits as tell them apart."""
    found: list[str] = []
    for digits in range(3, 7):
        units = [(one * 1e3, "ms") if one < 0.1 else (one, "s") for one in seconds]
        found = [f"{one:,.{max(0, digits - len(str(int(one))))}f} {unit}" for one, unit in units]
        if len(set(found)) == len(set(seconds)):
            break
    return found
