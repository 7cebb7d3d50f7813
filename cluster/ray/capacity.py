"""How many ranks a gang may have now, and on which nodes: those that live, answer, and do not keep failing."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from cluster.host.console import print_line
from cluster.machines import Node
from cluster.members import count_ranks, distinct_nodes
from cluster.placement import Placement
from cluster.ray.heartbeat import unreachable
from cluster.ray.nodes import (
    NODE_ID,
    describe_nodes,
    driver_node,
    free_resources,
    label_selector,
    live_nodes,
    nodes_by_kind,
    nodes_of,
)
from cluster.ray.quarantine import NodeFailures
from configs.pools import PoolConfig

SECONDS_FOR_A_REPLACEMENT = 5.0
"""An elastic gang that lost nodes waits so long for others before it goes on with fewer ranks: about what the start of
ranks takes, and longer than Ray takes to start a raylet again."""

GROW_AFTER_SECONDS = 60.0
"""A gang grows only so long after its start: a restart costs some ten seconds, and nodes seldom join alone."""

SECONDS_BETWEEN_COUNTS = 10.0
"""How often to check whether more ranks would fit."""


@dataclass(frozen=True)
class Bounds:
    """How many ranks a gang may have. Of a pool without members all are of its one kind."""

    least: int
    """The fewest of all members together."""

    most: tuple[int | None, ...]
    """The most of each member; None: as many as fit."""

    @property
    def is_fixed(self) -> bool:
        """Whether the gang has always the same number of ranks."""
        return self.least == sum(inf if most is None else most for most in self.most)

    def choose_counts(
        self, *, slots: tuple[int, ...], free: tuple[int, ...], before: Sequence[int], waited_seconds: float
    ) -> tuple[int, ...]:
        """Return how many ranks of each member to ask for now; none of any while it is better to wait.

        Up to the most of each, `slots` fit on the nodes in all, and `free` on what nobody uses. `before` are the
        numbers that the gang had before its restart, empty at first.
        """
        none = (0,) * len(self.most)
        if not self.is_fixed and waited_seconds >= SECONDS_FOR_A_REPLACEMENT:
            slots = free  # the other slots are somebody else's
        elif any(slot < number for slot, number in zip(slots, before or none, strict=True)):
            return none
        return slots if sum(slots) >= self.least else none

    def room_to_grow(self, counts: Sequence[int]) -> tuple[int | None, ...]:
        """Return how many more ranks of each member there may be than now; None: as many as fit."""
        return tuple(None if most is None else max(0, most - n) for most, n in zip(self.most, counts, strict=True))


def rank_bounds(pool: PoolConfig, placement: Placement) -> Bounds:
    """Return how many ranks the gangs of a pool may have. A member that is left out has none."""
    members = placement.members or (placement,)
    now = tuple(0 if member.left_out else member.num_ranks for member in members)
    if pool.min_ranks is None:
        return Bounds(sum(now), now)
    kinds = zip(pool.kinds(), members, strict=True)
    return Bounds(pool.min_ranks, tuple(0 if member.left_out else kind.num_ranks for kind, member in kinds))


class Capacity:
    """What the nodes of a pool, as they are now, hold of a gang's ranks. Nodes are listed for each of its kinds."""

    def __init__(
        self, pool: PoolConfig, placement: Placement, *, failures: NodeFailures, avoid: frozenset[str], label: str
    ) -> None:
        self._pool, self._placement, self.label = pool, placement, label
        self._failures, self._avoid, self._printed = failures, avoid, ""
        self.bounds = rank_bounds(pool, placement)

    def answering_nodes(self) -> list[list[Node]]:
        """List the nodes of the pool that live and answer: one that is cut off lives with Ray for another minute."""
        nodes, own = nodes_by_kind(self._pool), driver_node()
        silent = unreachable(node.address for node in distinct_nodes(nodes) if node.id != own.id)
        return [[node for node in kind if node.address not in silent] for kind in nodes]

    def usable_nodes(self) -> list[list[Node]]:
        """List the nodes that ranks may be on now.

        A node that keeps failing is among them only where the others do not hold the fewest ranks.
        """
        answering = self.answering_nodes()
        bad = self._failures.avoided() | self._avoid
        good = [[node for node in kind if not node.is_in(bad)] for kind in answering]
        left_out = ", ".join(node.host for node in distinct_nodes(answering) if node.is_in(bad))
        if sum(self._count(good)) < self.bounds.least <= sum(self._count(answering)):
            self._print_once(f"the nodes that failed before, {left_out}, are used: the rest is too little")
            return answering
        if left_out:
            self._print_once(f"leaving out {left_out}, which failed before")
        return good

    def choose_counts(
        self, nodes: Sequence[Sequence[Node]], *, before: Sequence[int], waited_seconds: float
    ) -> tuple[int, ...]:
        """Return how many ranks of each member to ask for on these nodes now; none while it is better to wait.

        See Bounds for `before`.
        """
        slots, free = self._count(nodes), self._count(_free(nodes))
        return self.bounds.choose_counts(slots=slots, free=free, before=before, waited_seconds=waited_seconds)

    def can_grow(self, counts: Sequence[int]) -> bool:
        """Return whether more ranks would fit than those that each member has now."""
        room = self.bounds.room_to_grow(counts)
        return any(most != 0 for most in room) and any(self._count(_free(self.usable_nodes()), room))

    def selectors(self, nodes: Sequence[Sequence[Node]], counts: Sequence[int]) -> list[dict[str, str]]:
        """Return Ray's label selector for the bundle of each rank, where each member has so many.

        It allows these nodes of the rank's member and those that join later; or one node alone where members share
        some, for Ray, which places one bundle after the other, may take for the first what the second needs.
        """
        if len(distinct_nodes(nodes)) == sum(map(len, nodes)):
            known = {node.id for kind in nodes for node in kind}
            of_kinds = [
                label_selector(kind, avoided=[node for node in nodes_of(kind) if node.id not in known])
                for kind in self._pool.kinds()
            ]
            return [selector for selector, number in zip(of_kinds, counts, strict=True) for _ in range(number)]
        places = self._places(_free(nodes), counts)
        if [place.total() for place in places] != list(counts):
            places = self._places(nodes, counts)  # which are waited for
        return [{NODE_ID: node} for place in places for node in place.elements()]

    def reason_to_leave(self, host: str, hosts: Sequence[str], counts: Sequence[int]) -> str:
        """Say why a gang may leave one of the `hosts` of its ranks, which would not be missed; empty if it would be.

        `counts`: how many ranks of each member it has.
        """
        lost = Counter(self._placement.member_of(rank, counts) for rank, one in enumerate(hosts) if one == host)
        wanted = tuple(lost[member] for member in range(len(counts)))
        others = [[node for node in kind if node.host != host] for kind in self.usable_nodes()]
        if not any(wanted):
            return ""
        if self._count(_free(others), wanted) == wanted:
            return "there is room for its ranks elsewhere"
        is_enough = not self.bounds.is_fixed and sum(counts) - sum(wanted) >= self.bounds.least
        return "the other ranks are enough without it" if is_enough else ""

    def note_failure(self, host: str, *, reason: str, is_certain: bool = False) -> None:
        """Remember that a host has failed, which is avoided at once if that is certain to come again."""
        self._failures.add(host, reason=reason, is_certain=is_certain)

    def describe_shortage(self, asked: str) -> str:
        """Say what was asked for and did not become free in time, and what there is and what is free of it."""
        selectors = [label_selector(kind, avoided=[]) for kind in self._pool.kinds()]
        words = [", ".join(f"{name}={value}" for name, value in selector.items()) for selector in selectors]
        need = f"{asked} on nodes with {' or '.join(words)}" if all(words) else asked
        return (
            f"{self.label}: {need} did not become free in {self._placement.start_timeout_seconds:g} s; the pool's "
            f"nodes are {self.describe_nodes()}, of {len(live_nodes())} that live; wait for other work "
            "to end, ask for less with num_ranks or cpus_per_rank, or wait longer with start_timeout_seconds in the "
            "cluster file"
        )

    def describe_nodes(self) -> str:
        """Describe the nodes that ranks may be on now, and what is free of each."""
        return describe_nodes(distinct_nodes(self.usable_nodes()))

    def _count(self, nodes: Sequence[Sequence[Node]], most: Sequence[int | None] | None = None) -> tuple[int, ...]:
        """Count the ranks of each member that fit together, up to its most."""
        return tuple(place.total() for place in self._places(nodes, most or self.bounds.most))

    def _places(self, nodes: Sequence[Sequence[Node]], most: Sequence[int | None]) -> list[Counter[str]]:
        return count_ranks([self._placement.of_member(member) for member in range(len(nodes))], nodes, most)

    def _print_once(self, text: str) -> None:
        if text != self._printed:
            print_line(f"{self.label}: {text}")
        self._printed = text


class ResizeCheck:
    """Checks, while the ranks of a gang work, whether they had better be on other nodes; asks them once to make way."""

    def __init__(
        self,
        capacity: Capacity,
        hosts: Sequence[str],
        counts: Sequence[int],
        *,
        resize: Callable[[], None] | None,
        slow_host: Callable[[], str | None] | None = None,
    ) -> None:
        """`hosts` are those of the ranks that work now, `counts` of each member; `resize` asks them to save and raise
        Resized, None if they cannot; `slow_host` names a host that keeps the others waiting."""
        self._capacity, self._hosts, self._counts = capacity, hosts, counts
        self._resize, self._slow_host = resize, slow_host
        self._next = time.monotonic() + GROW_AFTER_SECONDS

    def poll(self) -> None:
        """Call `resize` if more ranks would fit, or a slow host can be left out; looks only every few seconds."""
        if self._resize is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN_COUNTS
        slow = self._slow_host() if self._slow_host else None
        if slow is not None and (why := self._capacity.reason_to_leave(slow, self._hosts, self._counts)):
            reason = f"{slow} keeps the other ranks waiting, and {why}"
            self._capacity.note_failure(slow, reason=reason, is_certain=True)
        elif self._capacity.can_grow(self._counts):
            reason = "more ranks fit by now"
        else:
            return
        print_line(f"{self._capacity.label}: {reason}; the ranks are asked to save and make way")
        self._resize()
        self._resize = None


def _free(nodes: Sequence[Sequence[Node]]) -> list[list[Node]]:
    return [free_resources(kind) for kind in nodes]
