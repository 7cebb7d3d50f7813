"""How many ranks a gang may have now, and on which nodes: those that live, answer, and do not keep failing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.host.console import print_line
from cluster.machines import Node
from cluster.placement import Placement, count_slots
from cluster.ray.heartbeat import unreachable
from cluster.ray.nodes import describe_nodes, driver_node, free_resources, label_selector, live_nodes, nodes_of
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
    """How many ranks a gang may have."""

    least: int
    most: int | None
    """None: as many as fit."""

    def choose_num_ranks(self, *, num_slots: int, num_free: int, before: int, waited_seconds: float) -> int:
        """Return how many ranks to ask for now; 0 while it is better to wait.

        `num_slots` ranks fit on the nodes in all, `num_free` on what nobody uses. `before` is the number of ranks that
        the gang had before its restart, 0 at first.
        """
        most = num_slots if self.most is None else min(self.most, num_slots)
        if self.least == self.most:
            return most if most >= self.least else 0
        if waited_seconds < SECONDS_FOR_A_REPLACEMENT:
            return most if most >= max(before, self.least) else 0
        most = min(most, num_free)  # the other slots are somebody else's
        return most if most >= self.least else 0

    def can_grow(self, *, num_ranks: int, num_free: int) -> bool:
        """Return whether more ranks would fit than there are now."""
        return num_free > 0 and (self.most is None or num_ranks < self.most)


def rank_bounds(pool: PoolConfig, placement: Placement) -> Bounds:
    """Return how many ranks the gangs of a pool may have."""
    if pool.min_ranks is None:
        return Bounds(placement.num_ranks, placement.num_ranks)
    return Bounds(pool.min_ranks, pool.num_ranks)


class Capacity:
    """What the nodes of a pool, as they are now, hold of a gang's ranks."""

    def __init__(
        self, pool: PoolConfig, placement: Placement, *, failures: NodeFailures, avoid: frozenset[str], label: str
    ) -> None:
        self._pool, self._placement, self.label = pool, placement, label
        self._failures, self._avoid, self._printed = failures, avoid, ""
        self.bounds = rank_bounds(pool, placement)

    def answering_nodes(self) -> list[Node]:
        """List the nodes of the pool that live and answer: one that is cut off lives with Ray for another minute."""
        nodes, own = nodes_of(self._pool), driver_node()
        silent = unreachable(node.address for node in nodes if node.id != own.id)
        return [node for node in nodes if node.address not in silent]

    def usable_nodes(self) -> list[Node]:
        """List the nodes that ranks may be on now.

        A node that keeps failing is among them only where the others do not hold the fewest ranks.
        """
        answering = self.answering_nodes()
        bad = self._failures.avoided() | self._avoid
        good = [node for node in answering if not node.is_in(bad)]
        if self._count_slots(good) < self.bounds.least <= self._count_slots(answering):
            self._print_once(
                f"the nodes that failed before, {_names(answering, but=good)}, are used: the rest is too little"
            )
            return answering
        if len(good) < len(answering):
            self._print_once(f"leaving out {_names(answering, but=good)}, which failed before")
        return good

    def choose_num_ranks(self, nodes: Sequence[Node], *, before: int, waited_seconds: float) -> int:
        """Return how many ranks to ask for on these nodes now; 0 while it is better to wait (see Bounds)."""
        num_slots, num_free = self._count_slots(nodes), self._count_slots(free_resources(nodes))
        return self.bounds.choose_num_ranks(
            num_slots=num_slots, num_free=num_free, before=before, waited_seconds=waited_seconds
        )

    def can_grow(self, num_ranks: int) -> bool:
        """Return whether more ranks would fit than there are now."""
        return self.bounds.can_grow(
            num_ranks=num_ranks, num_free=self._count_slots(free_resources(self.usable_nodes()))
        )

    def selector(self, nodes: Sequence[Node]) -> dict[str, str]:
        """Return Ray's label selector for these nodes and any of the pool that join later."""
        known = {node.id for node in nodes}
        return label_selector(self._pool, avoided=[node for node in nodes_of(self._pool) if node.id not in known])

    def can_do_without(self, host: str, hosts: Sequence[str]) -> bool:
        """Return whether the ranks that are on a host, of those on `hosts`, would fit on others that are free."""
        others = [node for node in self.usable_nodes() if node.host != host]
        return 0 < hosts.count(host) <= self._count_slots(free_resources(others))

    def note_failure(self, host: str, *, reason: str, is_certain: bool = False) -> None:
        """Remember that a host has failed, which is avoided at once if that is certain to come again."""
        self._failures.add(host, reason=reason, is_certain=is_certain)

    def describe_shortage(self, asked: str) -> str:
        """Say what was asked for and did not become free in time, and what there is and what is free of it."""
        labels = ", ".join(f"{name}={value}" for name, value in label_selector(self._pool, avoided=[]).items())
        need = f"{asked} on nodes with {labels}" if labels else asked
        return (
            f"{self.label}: {need} did not become free in {self._placement.start_timeout_seconds:g} s; the pool's "
            f"nodes are {describe_nodes(self.usable_nodes())}, of {len(live_nodes())} that live; wait for other work "
            "to end, ask for less with num_ranks or cpus_per_rank, or wait longer with start_timeout_seconds in the "
            "cluster file"
        )

    def _count_slots(self, nodes: Sequence[Node]) -> int:
        return count_slots(nodes, cpus_per_rank=self._placement.cpu_share, device=self._placement.device)

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
        *,
        resize: Callable[[], None] | None,
        slow_host: Callable[[], str | None] | None = None,
    ) -> None:
        """`hosts` are those of the ranks that work now; `resize` asks them to save and raise Resized, None if they
        cannot; `slow_host` names a host that keeps the others waiting."""
        self._capacity, self._hosts, self._resize, self._slow_host = capacity, hosts, resize, slow_host
        self._next = time.monotonic() + GROW_AFTER_SECONDS

    def poll(self) -> None:
        """Call `resize` if more ranks would fit, or a slow host can be left out; looks only every few seconds."""
        if self._resize is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN_COUNTS
        slow = self._slow_host() if self._slow_host else None
        if slow is not None and self._capacity.can_do_without(slow, self._hosts):
            reason = f"{slow} keeps the other ranks waiting, and there is room for its ranks elsewhere"
            self._capacity.note_failure(slow, reason=reason, is_certain=True)
        elif self._capacity.can_grow(len(self._hosts)):
            reason = "more ranks fit by now"
        else:
            return
        print_line(f"{self._capacity.label}: {reason}; the ranks are asked to save and make way")
        self._resize()
        self._resize = None


def _names(nodes: Sequence[Node], *, but: Sequence[Node]) -> str:
    return ", ".join(node.host for node in nodes if node not in but)
