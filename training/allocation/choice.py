"""Chooses which of unlike devices train together, and how: the fastest of what may be, by prediction. Pure.

What may be are candidates: a set of types of devices, a ZeRO stage, and which types recompute activations. Each is
given the allocation that takes least (bottleneck.py, cover.py). Slow devices are left out where they slow the job: more
devices do not always help (Sailor, SOSP 2025, arXiv 2504.17096, section 5). Nothing is chosen that is predicted to be
slower than the best of one type alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, inf

from training.allocation.bottleneck import allocate_bottleneck
from training.allocation.cover import allocate_cover
from training.allocation.devices import Allocation, DeviceType, Share, sum_of_rates

ALL_SUBSETS = 8
"""Up to so many types all sets of them are tried, 255; of more types the sets of the fastest, and each alone."""

WORTH_LEAVING_OUT = 0.01
"""Devices are left out, or a higher stage taken, where that makes a step faster by more than this share of it."""

ROUNDING = 1e-9
"""Times that differ by no larger share of them are equal."""

Members = tuple[int, ...]
"""Numbers of types, from 0, in order."""


@dataclass(frozen=True)
class Candidate:
    """One way to train on some of the types."""

    members: Members
    devices: tuple[DeviceType, ...]
    """Those of the members."""

    zero_stage: int
    recomputing: Members = ()
    """The members that recompute activations."""

    step_seconds: float = 0.0
    """What a step takes besides its passes and their collectives."""

    pass_seconds: float = 0.0
    """What the collectives of a pass take, where every pass has some."""

    overlaps: bool = True
    """Whether they are exchanged while the pass computes."""

    @property
    def has_equal_passes(self) -> bool:
        """Whether every pass has collectives, so that all ranks have as many passes.

        ZeRO 2 that reduces once a step, and holds gradients whole until then, is ZeRO 1.
        """
        return self.zero_stage >= 2

    @property
    def num_ranks(self) -> int:
        """The number of devices."""
        return sum(one.number for one in self.devices)


@dataclass(frozen=True)
class Option:
    """A candidate with the sequences shared as is fastest."""

    candidate: Candidate
    allocation: Allocation

    @property
    def seconds(self) -> float:
        """The predicted time of a step."""
        return self.allocation.seconds

    @property
    def eta(self) -> float:
        """The share of its devices' own speeds that the job has together."""
        return self.allocation.eta


Candidates = Callable[[Members], Sequence[Candidate]]
"""Gives what may be done with some of the types; nothing where they cannot train together, as for want of memory."""


@dataclass(frozen=True)
class AllocationChoice:
    """What is chosen, and what came next."""

    chosen: Option
    runner_up: Option | None
    """The fastest of other devices; where there is no other set of them, the fastest of the others."""


def sets_of_types(rates: Sequence[float]) -> Iterator[Members]:
    """Yield the sets of types to try, all of them first: any, or of more than ALL_SUBSETS the fastest and each alone.

    `rates` are of one device of each type. That is greedy: a set of a fast and a slow type without those between is
    then not tried.
    """
    everything = range(len(rates))
    if len(rates) <= ALL_SUBSETS:
        for number in range(len(rates), 0, -1):
            yield from combinations(everything, number)
        return
    fastest = sorted(everything, key=lambda place: -rates[place])
    yield from (tuple(sorted(fastest[:number])) for number in range(len(rates), 1, -1))
    yield from ((place,) for place in everything)


def allocate(candidate: Candidate, num_sequences: int) -> Option:
    """Share a step's sequences among the devices of a candidate, such that the step takes least."""
    if not candidate.has_equal_passes:
        found = allocate_bottleneck(candidate.devices, num_sequences, step_seconds=candidate.step_seconds)
        return Option(candidate, found)
    found = allocate_cover(
        candidate.devices,
        num_sequences,
        pass_seconds=candidate.pass_seconds,
        overlaps=candidate.overlaps,
        step_seconds=candidate.step_seconds,
    )
    return Option(candidate, found)


def allocate_evenly(candidate: Candidate, num_sequences: int, *, most: int) -> Option:
    """Share a step's sequences evenly, in passes of `most` at most: the first ranks have one more (even_plan).

    Passes larger than those whose time is known take more in proportion.
    """
    share = ceil(num_sequences / candidate.num_ranks)
    a_pass = ceil(share / ceil(share / most))
    left = num_sequences - (share - 1) * candidate.num_ranks  # ranks that have `share`
    shares = []
    for one in candidate.devices:
        with_more = min(left, one.number)
        left -= with_more
        for number, of in ((with_more, share), (one.number - with_more, share - 1)):
            passes = tuple(min(a_pass, of - start) for start in range(0, of, a_pass))
            seconds = sum(_seconds_of(one, size) for size in passes)
            shares += [Share(one.name, number, passes, seconds)] if number else []
    slowest = max(one.seconds for one in shares)
    if candidate.has_equal_passes:
        exchange = ceil(share / a_pass) * candidate.pass_seconds
        slowest = max(slowest, exchange) if candidate.overlaps else slowest + exchange
    seconds = slowest + candidate.step_seconds
    eta = num_sequences / (seconds * sum_of_rates(candidate.devices))
    return Option(candidate, Allocation(tuple(shares), seconds, seconds, eta))


def _seconds_of(device: DeviceType, size: int) -> float:
    known = min(size, len(device.pass_seconds))
    return device.pass_seconds[known - 1] * size / known


def fastest_option(candidates: Sequence[Candidate], num_sequences: int) -> Option | None:
    """Return the fastest of some candidates; None of none."""
    waiting = sorted(((least_seconds(one, num_sequences), one) for one in candidates), key=lambda pair: pair[0])
    found: Option | None = None
    for least, one in waiting:
        if found is not None and least >= found.seconds:
            break
        option = allocate(one, num_sequences)
        found = option if found is None or option.seconds < found.seconds else found
    return found


def choose_allocation(
    sets: Sequence[Members], candidates_of: Candidates, num_sequences: int
) -> AllocationChoice | None:
    """Choose the fastest of the candidates of all sets of types; None if there is none.

    Of what is at most WORTH_LEAVING_OUT slower than the fastest, and no slower than the fastest of one type, it is that
    with the most devices, then with the lowest stage, then with the least recomputation.
    """
    waiting = [(least_seconds(one, num_sequences), one) for members in sets for one in candidates_of(members)]
    found: list[Option] = []
    for least, one in sorted(waiting, key=lambda pair: pair[0]):
        if least <= max(_limit(found), _second_fastest(found)):  # else it is neither chosen nor the runner-up
            found.append(allocate(one, num_sequences))
    if not found:
        return None
    chosen = min(
        (one for one in found if one.seconds <= _limit(found)),
        key=_preference,
    )
    others = [one for one in found if one is not chosen]
    elsewhere = [one for one in others if one.candidate.members != chosen.candidate.members]
    return AllocationChoice(chosen, min(elsewhere or others, key=lambda one: one.seconds, default=None))


def _preference(option: Option) -> tuple[int, int, int, float]:
    """Return a key that sorts ways that are about as fast, that which is taken first."""
    way = option.candidate
    return -way.num_ranks, way.zero_stage, len(way.recomputing), option.seconds


def _limit(options: Sequence[Option]) -> float:
    """Return what the choice may take at most, by what is known so far: it falls with each option."""
    fastest = min((one.seconds for one in options), default=inf)
    alone = min((one.seconds for one in options if len(one.candidate.members) == 1), default=inf)
    return min(fastest * (1 + WORTH_LEAVING_OUT), alone * (1 + ROUNDING))


def _second_fastest(options: Sequence[Option]) -> float:
    """Return the time of the set of devices that is second; infinite as long as there is one set."""
    by_members: dict[Members, float] = {}
    for one in options:
        members = one.candidate.members
        by_members[members] = min(one.seconds, by_members.get(members, inf))
    return sorted(by_members.values())[1] if len(by_members) > 1 else inf


def least_seconds(candidate: Candidate, num_sequences: int) -> float:
    """Return a time that no allocation of a candidate is below, without making one."""
    computing = num_sequences / sum_of_rates(candidate.devices)
    if not candidate.has_equal_passes:
        return computing + candidate.step_seconds
    a_pass = sum(one.number * len(one.pass_seconds) for one in candidate.devices)
    exchange = ceil(num_sequences / a_pass) * candidate.pass_seconds
    passes = max(computing, exchange) if candidate.overlaps else computing + exchange
    return passes + candidate.step_seconds
