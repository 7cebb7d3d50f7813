"""How many ranks a gang may have now, and on which nodes: those that live, answer, and do not keep failing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.host.console import say
from cluster.machines import Node
from cluster.placement import Placement, slots
from cluster.ray.heartbeat import unreachable
from cluster.ray.nodes import free_of, home, live_nodes, nodes_of, selector, tell
from cluster.ray.quarantine import NodeFailures
from configs.pools import PoolConfig

SECONDS_FOR_A_REPLACEMENT = 5.0
"""An elastic gang that lost nodes waits so long for others before it goes on with fewer ranks: about what the start of
ranks takes, and longer than Ray takes to start a raylet again."""

GROW_AFTER_SECONDS = 60.0
"""Of an attempt: starting again costs some ten seconds, and who joins seldom joins alone."""

SECONDS_BETWEEN_COUNTS = 10.0
"""How often to see whether more ranks would fit."""


@dataclass(frozen=True)
class Bounds:
    """How many ranks a gang may have."""

    least: int
    most: int | None
    """None: as many as fit."""

    def number(self, *, room: int, free: int, before: int, waited_seconds: float) -> int:
        """How many ranks to ask for now; 0 while waiting is better.

        `room` is what the nodes hold in all, `free` what nobody uses. `before` is the number of the attempt before.
        """
        most = room if self.most is None else min(self.most, room)
        if self.least == self.most:
            return most if most >= self.least else 0
        if waited_seconds < SECONDS_FOR_A_REPLACEMENT:
            return most if most >= max(before, self.least) else 0
        most = min(most, free)  # the other places are somebody else's
        return most if most >= self.least else 0

    def grows(self, *, now: int, free: int) -> bool:
        """Whether more ranks would fit than there are now."""
        return free > 0 and (self.most is None or now < self.most)


def bounds(pool: PoolConfig, placement: Placement) -> Bounds:
    """Of a pool's gangs."""
    if pool.min_ranks is None:
        return Bounds(placement.num_ranks, placement.num_ranks)
    return Bounds(pool.min_ranks, pool.num_ranks)


class Room:
    """The nodes of a pool, as they are now, for a gang of some shape."""

    def __init__(
        self, pool: PoolConfig, placement: Placement, *, failures: NodeFailures, avoid: frozenset[str], label: str
    ) -> None:
        self._pool, self._placement, self._label = pool, placement, label
        self._failures, self._avoid, self._said = failures, avoid, ""
        self.bounds = bounds(pool, placement)

    def alive(self) -> list[Node]:
        """Those that live and answer."""
        return _answering(nodes_of(self._pool))

    def nodes(self) -> list[Node]:
        """Those that ranks may be on now. A node that keeps failing is used only where the rest does not suffice."""
        answering = self.alive()
        bad = self._failures.avoided() | self._avoid
        good = [node for node in answering if not node.is_in(bad)]
        if self._slots(good) < self.bounds.least <= self._slots(answering):
            self._say(f"the nodes that failed before, {_names(answering, but=good)}, are used: the rest is too little")
            return answering
        if len(good) < len(answering):
            self._say(f"leaving out {_names(answering, but=good)}, which failed before")
        return good

    def number(self, nodes: Sequence[Node], *, before: int, waited_seconds: float) -> int:
        """See Bounds.number."""
        room, free = self._slots(nodes), self._slots(free_of(nodes))
        return self.bounds.number(room=room, free=free, before=before, waited_seconds=waited_seconds)

    def grows(self, now: int) -> bool:
        """Whether more ranks would fit than there are now."""
        return self.bounds.grows(now=now, free=self._slots(free_of(self.nodes())))

    def selector(self, nodes: Sequence[Node]) -> dict[str, str]:
        """Ray's label selector for these nodes and any of the pool that join later."""
        known = {node.id for node in nodes}
        return selector(self._pool, [node for node in nodes_of(self._pool) if node.id not in known])

    def failed(self, host: str, *, reason: str) -> None:
        """Remember that a host has failed."""
        self._failures.add(host, reason=reason)

    def shortage(self, asked: str) -> str:
        """What was asked, what there is, what is free, where: when it did not come in time."""
        need = f"{asked} on nodes with {self._wishes()}" if self._wishes() else asked
        return (
            f"{self._label}: {need} did not become free in {self._placement.start_timeout_seconds:g} s; the pool's "
            f"nodes are {tell(self.nodes())}, of {len(live_nodes())} that live; wait for other work to end, ask for "
            "less with num_ranks or cpus_per_rank, or wait longer with start_timeout_seconds in the cluster file"
        )

    def _wishes(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in selector(self._pool, []).items())

    def _slots(self, nodes: Sequence[Node]) -> int:
        return slots(nodes, cpus_per_rank=self._placement.cpus_per_rank, device=self._placement.device)

    def _say(self, text: str) -> None:
        if text != self._said:
            say(f"{self._label}: {text}")
        self._said = text


class Growth:
    """Sees, in one attempt, whether more ranks would fit, and asks once."""

    def __init__(self, room: Room, *, number: int, resize: Callable[[], None] | None) -> None:
        self._room, self._number, self._resize = room, number, resize
        self._next = time.monotonic() + GROW_AFTER_SECONDS

    def look(self) -> None:
        """Call `resize` if they would; looks only every few seconds."""
        if self._resize is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN_COUNTS
        if self._room.grows(self._number):
            self._resize()
            self._resize = None


def _answering(nodes: Sequence[Node]) -> list[Node]:
    """A node that was cut off counts as alive with Ray for a minute."""
    here = home()
    silent = unreachable(node.address for node in nodes if node.id != here.id)
    return [node for node in nodes if node.address not in silent]


def _names(nodes: Sequence[Node], *, but: Sequence[Node]) -> str:
    return ", ".join(node.host for node in nodes if node not in but)
