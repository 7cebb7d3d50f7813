"""The ways in which some of the unlike devices of a pool can train together: stage, and who recomputes activations."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import ceil

from training.allocation.choice import ALL_SUBSETS, Candidate, Members, sets_of_types
from training.allocation.devices import DeviceType
from training.sizing.fit import possible_stages
from training.sizing.member_times import (
    MembersJob,
    count_ranks,
    largest_layout,
    pass_seconds,
    placement_of,
    reach_of,
    recomputing_members,
    seconds_per_sequence,
    with_recomputing,
)
from training.sizing.step_time import predict_exchange, predict_update


def find_candidates(job: MembersJob, members: Members, *, stages: Sequence[int] | None = None) -> list[Candidate]:
    """Return how some of the members can train together; nothing if their memory holds none."""
    wanted = possible_stages(job.config, job.placement) if stages is None else stages
    found = [
        _candidate(with_recomputing(job, recomputing), members, stage)
        for stage in wanted
        for recomputing in recomputing_sets(job, members, stage)
    ]
    return [one for one in found if one is not None]


def recomputing_sets(job: MembersJob, members: Members, stage: int) -> list[Members]:
    """Return which of some members may recompute activations, the fewest first.

    That is for the pool to say; of those of which it does not, those that hold no sequence otherwise do, and every set
    is given of the others that then hold more of them, of more than ALL_SUBSETS none and all. In ZeRO 3 all do or none,
    since ranks gather weights at the same times. An architecture that the formulas do not know may lack it, and does it
    only where the pool says so.
    """
    fixed = tuple(number for number in recomputing_members(job.placement) if number in members)
    may = may_recompute(job, members)
    if not may:
        return [fixed]
    num_ranks, saving = count_ranks(job, members), with_recomputing(job, may)
    forced, gaining = list[int](), list[int]()
    for number in may:
        plain, own = (largest_layout(one, number, num_ranks, stage) for one in (job, saving))
        if own.fits and not plain.fits:
            forced.append(number)
        elif own.fits and own.micro_batch_size > plain.micro_batch_size:
            gaining.append(number)
    if stage == 3:
        return [fixed, *([tuple(sorted((*fixed, *may)))] if fixed or forced or gaining else [])]
    sizes = range(len(gaining) + 1) if len(gaining) <= ALL_SUBSETS else (0, len(gaining))
    return [tuple(sorted((*fixed, *forced, *some))) for size in sizes for some in combinations(gaining, size)]


def may_recompute(job: MembersJob, members: Members) -> Members:
    """Return those of some members of which the pool leaves it open whether they recompute activations."""
    if job.model.built:
        return ()
    return tuple(n for n in members if "activation_checkpointing" in job.placement.members[n].leaves_open)


def recompute_alike(members: Members, recomputing: Members, stage: int) -> bool:
    """Return whether some members may train together where these recompute activations: in ZeRO 3 all or none."""
    return stage < 3 or not (own := set(members) & set(recomputing)) or own == set(members)


def possible_sets(job: MembersJob) -> Iterator[Members]:
    """Yield the sets of members that may train alone: of an elastic pool no fewer ranks than it may shrink to."""
    rates = [1 / max(seconds_per_sequence(job, number) or 0.0, 1e-12) for number in job.present]
    least = job.placement.min_ranks if job.is_elastic else 1
    for places in sets_of_types(rates):
        members = tuple(job.present[place] for place in places)
        if count_ranks(job, members) >= least:
            yield members


def _candidate(job: MembersJob, members: Members, stage: int) -> Candidate | None:
    """Return how some members train in a stage; None if the memory of one does not hold a sequence, or it may not be.

    ZeRO 2 reduces gradients in every pass: with one reduction a step it would take the memory and time of ZeRO 1.
    """
    num_ranks = count_ranks(job, members)
    secondary = job.placement.deepspeed.zero_optimization.zero_hpz_partition_size or 1
    recomputing = tuple(number for number in recomputing_members(job.placement) if number in members)
    if num_ranks % secondary or not recompute_alike(members, recomputing, stage):
        return None
    layouts = [largest_layout(job, number, num_ranks, stage) for number in members]
    if not all(layout.fits for layout in layouts):
        return None
    a_pass = sum(
        job.placement.members[number].num_ranks * layout.micro_batch_size
        for number, layout in zip(members, layouts, strict=True)
    )
    num_passes = ceil(job.config.global_batch_size / a_pass)
    devices, updates, exchanges = [], [], []
    for number, layout in zip(members, layouts, strict=True):
        placed = placement_of(job, number, num_ranks, stage)
        reach = reach_of(job, members, number)
        seconds = pass_seconds(job, placed, number, layout.micro_batch_size, reach)
        name = placed.kind or f"member {number + 1}"
        devices.append(DeviceType(name, job.placement.members[number].num_ranks, seconds))
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
