"""What a training takes on unlike devices of one pool: who does how much of a step, how well, and at what price."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.devices import device_by_ray_name
from cluster.machines import Node, described
from cluster.placement import Placement
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from pipeline.estimate.basis import Basis, Range, find_basis
from pipeline.estimate.links import nodes_taken
from pipeline.estimate.speed import Speed
from training.allocation.choice import Members, Option, fastest_option
from training.allocation.devices import Share
from training.sizing.candidates import find_candidates
from training.sizing.fit import LayoutChoice, needed_bytes
from training.sizing.member_times import (
    KnownSpeed,
    MembersJob,
    link_of,
    measured_in,
    measured_members,
    recomputing_members,
    seconds_per_sequence,
    speeds_are_known,
    with_recomputing,
)
from training.sizing.members import MembersChoice, choose_members, predict_members
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import ModelParameters
from training.sizing.step_time import FAST, LIKELY, SLOW, Assumed, flops_of

MEASURED = "measured in this store"


@dataclass(frozen=True)
class MemberPlan:
    """One kind of devices of a pool."""

    kind: str
    num_ranks: int
    """Ranks that it has, whether or not they take part."""

    num_nodes: int
    """The nodes that these take beside those of the kinds before, and where they take no part, of all that do."""

    layout: LayoutChoice
    """That of its largest pass."""

    needed_bytes: int
    """Memory that its devices must have for that, headroom included."""

    memory_bytes: int | None
    """What they have; None where that is not known."""

    shares: tuple[Share, ...]
    """What its ranks do in a step; empty where that is not known, or they do not take part."""

    left_out: str
    """Why they do not take part; empty if they do."""


@dataclass(frozen=True)
class RunnerUp:
    """The next best way to train on the pool."""

    what: str
    """Which devices, and how, in words."""

    step_seconds: float
    why: str
    """How much slower it is."""


@dataclass(frozen=True)
class Price:
    """What tokens cost on some of the devices."""

    devices: str
    per_billion_tokens: float


@dataclass(frozen=True)
class MembersEstimate:
    """What a training takes on the members of a pool."""

    members: tuple[MemberPlan, ...]
    is_even: bool
    """Whether each rank has as many sequences as another."""

    step_seconds: float | None
    """What a step is predicted to take at the middle of what is assumed: what devices were chosen by. None where the
    speed of one is not known."""

    bound_seconds: float | None
    """What no allocation to these devices takes less than: `step_seconds` where it is the least, as it is up to 262,144
    sequences a step. None where steps are shared evenly."""

    eta: float | None
    """The share of their own speeds that the devices that take part have together."""

    eta_of_all: float | None
    """The share of the speeds of all devices of the pool."""

    source: str
    """What that was reckoned from."""

    runner_up: RunnerUp | None
    prices: tuple[Price, ...]
    """What 1e9 tokens cost with all members, and without the slow ones; empty where no price is known."""


def estimate_members(
    model: ModelParameters,
    size: ModelSize,
    config: TrainConfig,
    placement: Placement,
    *,
    pool: PoolConfig,
    nodes: Sequence[Node],
    store: Path | None,
) -> tuple[MembersChoice, MembersEstimate, Speed]:
    """Return how a pool with members trains, as a run chooses it, and the speed at the ends of what is assumed.

    `store` is the directory that may have what passes took.
    """
    choice = choose_members(model, size, config, placement, store=store)
    job = choice.job
    own_nodes = [_nodes_of(kind, nodes) for kind in pool.kinds()]
    option, members = choice.option, _plans(choice, own_nodes)
    found = MembersEstimate(
        members=members,
        is_even=choice.placement.balance == "even",
        step_seconds=option.seconds if option else None,
        bound_seconds=option.allocation.bound if option and choice.placement.balance != "even" else None,
        eta=option.eta if option else None,
        eta_of_all=_eta_of_all(job, option) if option else None,
        source=_source(choice),
        runner_up=_runner_up(choice),
        prices=_prices(job, choice, pool, members),
    )
    return choice, found, _speed(job, choice, pool, own_nodes)


def _plans(choice: MembersChoice, nodes: Sequence[Sequence[Node]]) -> tuple[MemberPlan, ...]:
    """Return what each kind of devices does, by the nodes of each."""
    shares = choice.option.allocation.shares if choice.option else ()
    found = []
    for number, (settled, layout) in enumerate(zip(choice.placement.members, choice.layouts, strict=True)):
        own = choice.job.placement.members[number]
        others = range(number) if settled.num_ranks else (*choice.used, *range(number))
        counted = [node for other in others for node in nodes[other]]
        own_shares = tuple(share for share in shares if share.device == settled.kind)
        num_passes = max((len(share.passes) for share in own_shares), default=layout.num_passes)
        found.append(
            MemberPlan(
                kind=settled.kind,
                num_ranks=own.num_ranks,
                num_nodes=nodes_taken(own, _without(nodes[number], counted)),
                layout=replace(layout, num_passes=num_passes),
                needed_bytes=needed_bytes(layout, own.device),
                memory_bytes=own.memory_bytes_per_rank,
                shares=own_shares,
                left_out=settled.left_out,
            )
        )
    return tuple(found)


def _nodes_of(kind: PoolConfig, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes of a kind: those described for it, else those of its accelerator among all."""
    if kind.machines is not None:
        return described(kind)
    return [node for node in nodes if kind.accelerator in (None, node.accelerator)] or list(nodes)


def _without(nodes: Sequence[Node], others: Sequence[Node]) -> list[Node]:
    """Return the nodes that are not among the others: those of kinds that are described alike are never the same."""
    known = {id(other) for other in others}
    return [node for node in nodes if id(node) not in known]


def _eta_of_all(job: MembersJob, option: Option) -> float | None:
    """Return the share of the speeds of all devices that have ranks; None where these are not known for all."""
    if not speeds_are_known(job, job.present):
        return None
    used = option.candidate.members
    rates = {number: one.number * one.rate for number, one in zip(used, option.candidate.devices, strict=True)}
    for number in set(job.present) - set(used):
        alone = fastest_option(find_candidates(job, (number,)), job.config.global_batch_size)
        seconds = seconds_per_sequence(job, number) or 0.0
        devices = alone.candidate.devices[0] if alone else None
        rates[number] = devices.number * devices.rate if devices else job.placement.members[number].num_ranks / seconds
    return job.config.global_batch_size / (option.seconds * sum(rates.values()))


def _source(choice: MembersChoice) -> str:
    """Return what a step is reckoned from, in words, or why it is not known."""
    job, used = with_recomputing(choice.job, recomputing_members(choice.placement)), choice.used
    exchange = _exchange_source(job, used)
    if (table := measured_in(job, choice.placement.zero_stage)) is not None:
        scaled = tuple(number for number in used if table[number].is_scaled)
        but = f", of {_names(job, scaled)} with the other recomputation and scaled by FLOPs" if scaled else ""
        return f"passes {MEASURED}{but}, {exchange}"
    sheets, emulated = [], []
    for number in used:
        member = job.placement.members[number]
        device = device_by_ray_name(member.accelerator)
        if device is not None and flops_of(member, job.config.precision, LIKELY) is not None:
            low, high = device.reached
            sheets.append(f"{(low + high) / 2:.1%} of the peak of {device.driver_names[0]}")
        elif member.emulated_seconds_per_sequence is None:
            return f"not known: the speed of {member.kind} is not, before training measures it"
        if member.emulated_seconds_per_sequence is not None:
            emulated.append(_emulated(member))
    assumed = f"assumed{' from data sheets' if sheets else ''}: {', '.join([*sheets, *emulated])}"
    known = measured_members(job)
    others = tuple(number for number in job.present if number not in known)
    but = f", as {_names(job, known)} were {MEASURED} and {_names(job, others)} were not" if known else ""
    return f"{assumed}{but}; {exchange}"


def _exchange_source(job: MembersJob, used: Members) -> str:
    members = [job.placement.members[number] for number in used]
    if sum(one.num_ranks for one in members) == 1:
        return "no exchange"
    if link_of(job, used) is not None:
        by = f"by the link {MEASURED}"
    elif members[0].device == "cpu":
        return "no exchange is reckoned"
    else:
        is_given = any(one.network_gbps_per_node is not None for one in members)
        by = "by data sheets" + (" and network_gbps_per_node" if is_given else "")
    return f"exchange {by}, none of it taken to be hidden"


def _runner_up(choice: MembersChoice) -> RunnerUp | None:
    """Return what came next."""
    chosen, other = choice.option, choice.runner_up
    if chosen is None or other is None:
        return None
    slower = other.seconds / chosen.seconds - 1
    why = f"{slower:.1%} slower" if slower > 0 else "no faster"
    return RunnerUp(_describe(choice.job, other), other.seconds, why)


def _describe(job: MembersJob, option: Option) -> str:
    way = option.candidate
    alone = " alone" if len(way.members) == 1 else ""
    recomputing = f", {_names(job, way.recomputing)} recomputing activations" if way.recomputing else ""
    return f"{_names(job, way.members)}{alone} in ZeRO {way.zero_stage}{recomputing}"


def _names(job: MembersJob, members: Members) -> str:
    return " and ".join(job.placement.members[number].kind for number in members)


def _prices(job: MembersJob, choice: MembersChoice, pool: PoolConfig, plans: Sequence[MemberPlan]) -> tuple[Price, ...]:
    """Return what tokens cost with all members that have ranks, and without those left out, or the slowest kind."""
    kinds = [kind.machines for kind in pool.kinds()]
    priced = [kinds[number] for number in job.present]
    if choice.option is None or not speeds_are_known(job, job.present):
        return ()
    if any(one is None or one.price_per_node_hour is None for one in priced):
        return ()
    if len({one.currency for one in priced if one}) > 1:
        return ()
    slowest = max(job.present, key=lambda number: seconds_per_sequence(job, number) or 0.0)
    fewer = choice.used if choice.used != job.present else tuple(one for one in job.present if one != slowest)
    found = []
    for members in (job.present, fewer):
        option = choice.option
        if members != option.candidate.members:
            other = fastest_option(find_candidates(job, members), job.config.global_batch_size) if members else None
            if other is None:
                continue
            option = other
        hour = sum(
            (machines.price_per_node_hour or 0.0) * plans[number].num_nodes
            for number, machines in enumerate(kinds)
            if number in members and machines
        )
        tokens = job.config.global_batch_size * job.config.sequence_length
        found.append(Price(_names(job, members), hour / 3600 * option.seconds * 1e9 / tokens))
    return tuple(found)


def _speed(job: MembersJob, choice: MembersChoice, pool: PoolConfig, nodes: Sequence[Sequence[Node]]) -> Speed:
    """Return the speed of the layout that is chosen at the ends of what is assumed, or known of its devices."""
    bases: list[Basis] = []
    for kind, own_nodes, member in zip(pool.kinds(), nodes, choice.placement.members, strict=True):
        bases.append(find_basis(job.config, member, pool=kind, nodes=own_nodes, store=None))

    def at(assumed: Assumed) -> Option | None:
        known = tuple(
            KnownSpeed(one.flops.low if assumed is SLOW else one.flops.high, one.whole) if one.flops else None
            for one in bases
        )
        return predict_members(replace(job, assumed=assumed, known=known), choice.placement)

    slow, fast = at(SLOW), at(FAST)
    own = [(choice.placement.members[number], bases[number]) for number in choice.used]
    if slow is None or fast is None:
        unknown = [one.source for member, one in own if one.flops is None and not member.emulated_seconds_per_sequence]
        return Speed(None, unknown[0] if unknown else "not known: it does not fit")
    sources = [one.source for _, one in own if one.flops is not None]
    sources += [_emulated(member) for member, _ in own if member.emulated_seconds_per_sequence]
    sources = [MEASURED] if job.measured is not None else sources
    tokens = job.config.global_batch_size * job.config.sequence_length
    return Speed(Range(tokens / slow.seconds, tokens / fast.seconds), "; ".join(dict.fromkeys(sources)))


def _emulated(member: Placement) -> str:
    return f"{member.kind} let take {member.emulated_seconds_per_sequence:g} s a sequence"
