"""The doctor on the nodes of a Ray: an actor on each, and pairs of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.doctor.agreement import Clock
from cluster.doctor.all_reduce import MEET_SECONDS, Speed, measure
from cluster.doctor.node import Need, NodeState, examine_node
from cluster.doctor.pairs import Pair, rounds_of
from cluster.host.network import free_port
from cluster.machines import Node
from cluster.ray.connection import connect, first_line
from cluster.ray.nodes import nodes_of
from configs.cluster import ClusterConfig

NODE_SECONDS, QUICK_NODE_SECONDS = 120.0, 20.0
"""A node that takes longer to examine itself hangs."""

_PAIR_SECONDS = 60.0
"""Of which torch takes some to load, and MEET_SECONDS are to meet."""

_NUM_CLOCKS = 5
_LOADS = ("ModuleNotFoundError", "No module named", "failed to import", "ImportError")


class Probe:
    """On a node."""

    def examine(self, need: Need) -> NodeState:
        """The node's own findings."""
        return examine_node(need)

    def now(self) -> float:
        """The node's time."""
        return time.time()

    def port(self) -> int:
        """A free one."""
        return free_port()

    def measure(self, rank: int, address: str, port: int, here: str, backend: Literal["gloo", "nccl"]) -> Speed:
        """Be one of two."""
        return measure(rank, address, port, here=here, backend=backend)


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of a Ray during the block, or longer where this process was one before."""
    before = ray.is_initialized()
    connect(address)
    try:
        yield
    finally:
        if not before:
            ray.shutdown()


def pool_nodes(machines: ClusterConfig) -> dict[str, list[Node]]:
    """The nodes that live, by pool."""
    return {name: nodes_of(pool) for name, pool in machines.pools.items()}


class Probes:
    """One probe on each of some nodes. A context manager that ends them."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self._actors = [self._start(node, num_gpus=0) for node in nodes]

    def __enter__(self) -> "Probes":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def examine(self, needs: Callable[[Node], Need], *, seconds: float) -> dict[str, NodeState | str]:
        """By Ray's id of the node its state, or why there is none."""
        ids = [node.id for node in self.nodes]
        calls = [actor.examine.remote(needs(node)) for actor, node in zip(self._actors, self.nodes, strict=True)]
        return dict(zip(ids, _results(calls, seconds=seconds), strict=True))

    def clocks(self, alive: Mapping[str, object]) -> dict[str, Clock | str]:
        """By Ray's id of the node what its clock says, or why it says nothing; only of those in `alive`."""
        actors = {node.id: actor for node, actor in zip(self.nodes, self._actors, strict=True) if node.id in alive}
        return {node: _clock(actor) for node, actor in actors.items()}

    def speeds(self, pairs: Sequence[Pair]) -> dict[Pair, Speed | str | None]:
        """Speeds of pairs of indices of nodes, or why there is none (None: GPUs are in use); those of a round of pairs,
        of which no two have a node in common, at the same time."""
        backend: Literal["gloo", "nccl"] = "nccl" if all(node.num_gpus for node in self.nodes) else "gloo"
        actors = [self._start(node, num_gpus=1) for node in self.nodes] if backend == "nccl" else self._actors
        up = [not isinstance(a, str) for a in _results([actor.now.remote() for actor in actors], seconds=MEET_SECONDS)]
        found: dict[Pair, Speed | str | None] = {pair: None for pair in pairs if not (up[pair[0]] and up[pair[1]])}
        for pairs_at_once in rounds_of([pair for pair in pairs if pair not in found]):
            found |= self._measure(actors, pairs_at_once, backend)
        if backend == "nccl":
            for actor in actors:
                ray.kill(actor)
        return found

    def _measure(
        self, actors: Sequence[Any], pairs: Sequence[Pair], backend: Literal["gloo", "nccl"]
    ) -> dict[Pair, Speed | str | None]:
        addresses = [node.address.rpartition(":")[0] for node in self.nodes]
        ports = _results([actors[first].port.remote() for first, _ in pairs], seconds=MEET_SECONDS)
        calls = [
            actors[index].measure.remote(rank, addresses[pair[0]], port, addresses[index], backend)
            for pair, port in zip(pairs, ports, strict=True)
            for rank, index in enumerate(pair)
            if not isinstance(port, str)
        ]
        results = iter(_results(calls, seconds=_PAIR_SECONDS))
        return {
            pair: port if isinstance(port, str) else _slower(next(results), next(results))
            for pair, port in zip(pairs, ports, strict=True)
        }

    @staticmethod
    def _start(node: Node, *, num_gpus: int) -> Any:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        return ray.remote(Probe).options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=there).remote()


def _clock(actor: Any) -> Clock | str:
    best = Clock(0.0, float("inf"))
    for _ in range(_NUM_CLOCKS):
        before = time.time()
        (there,) = _results([actor.now.remote()], seconds=QUICK_NODE_SECONDS)
        after = time.time()
        if isinstance(there, str):
            return there
        best = min(best, Clock(there - (before + after) / 2, (after - before) / 2), key=lambda c: c.within_seconds)
    return best


def _results(calls: Sequence[Any], *, seconds: float) -> list[Any]:
    """What calls give, or why they give nothing, as text."""
    ready = set(ray.wait(list(calls), num_returns=len(calls), timeout=seconds)[0]) if calls else set()
    return [_result(call) if call in ready else f"no answer within {seconds:.0f} s" for call in calls]


def _result(call: Any) -> Any:
    try:
        return ray.get(call)
    except RayError as error:
        text = str(error)
        if any(word in text for word in _LOADS):
            return "Concord, or a package that it needs, cannot be imported there"
        cause = getattr(error, "cause", None)
        return first_line(cause if isinstance(cause, BaseException) else error)


def _slower(first: Speed | str, second: Speed | str) -> Speed | str:
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else second
    return min(first, second, key=lambda speed: speed.gigabits_per_second)
