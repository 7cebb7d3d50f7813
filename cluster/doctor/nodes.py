"""The nodes of a running Ray: each examined by a process on it, then all compared. Loads Ray."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.doctor.disk import locked_file
from cluster.doctor.network import (
    MEET_SECONDS,
    Pair,
    Speed,
    choose_pairs,
    measure_speed,
    pair_findings,
    split_into_rounds,
)
from cluster.doctor.node import NodeNeeds, NodeState, examine_node, node_needs
from cluster.doctor.report import Finding, Report, fail, fail_with_error, ok, on_host, warn
from cluster.doctor.software import Clock, clock_finding, installed_versions, version_finding
from cluster.host.network import free_port
from cluster.machines import Node
from cluster.members import device_of_all, distinct_nodes, name_of_kind
from cluster.placement import missing_machines
from cluster.ray.connection import connect, first_line
from cluster.ray.nodes import nodes_by_kind
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.pools import PoolConfig

RESTART_FIX = "on that node: ray stop, then start Ray again in Concord's environment, where `import cluster` works"

NODE_SECONDS, QUICK_NODE_SECONDS = 120.0, 20.0
"""A node that takes longer to examine itself hangs."""

_PAIR_SECONDS = 60.0
"""Time limit of measuring a pair: torch takes some of it to load, and up to MEET_SECONDS are for meeting."""

_NUM_CLOCK_READINGS = 5
_IMPORT_ERRORS = ("ModuleNotFoundError", "No module named", "failed to import", "ImportError")


def examine_nodes(machines: ClusterConfig, *, address: str, store: Path, quick: bool) -> Report:
    """Join the Ray at `address` and report what the nodes of the pools, and pairs of them, find."""
    try:
        with joined_ray(address), locked_file(store) as locked:
            pools = {name: nodes_by_kind(pool) for name, pool in machines.pools.items()}
            kinds = [kind for pool in machines.pools.values() for kind in pool.kinds()]
            by_kind = [own for found in pools.values() for own in found]
            nodes = distinct_nodes(by_kind)

            def needs(node: Node) -> NodeNeeds:
                own = (kind for kind, there in zip(kinds, by_kind, strict=True) if node.id in {one.id for one in there})
                wants = any(kind.wants_gpus for kind in own)
                return node_needs(machines, store, quick=quick, gpus=bool(node.num_gpus) or wants, locked=locked)

            with Probes(nodes) as probes:
                states = probes.examine(needs, timeout_seconds=QUICK_NODE_SECONDS if quick else NODE_SECONDS)
                answering = {node: state for node, state in states.items() if isinstance(state, NodeState)}
                clocks = probes.read_clocks(answering)
                pairs = [] if quick or len(answering) < len(nodes) else choose_pairs(len(nodes))
                speeds = probes.measure_speeds(pairs)
    except UserError as error:
        return Report(quick=quick, findings=(fail_with_error("nodes", error),))
    except OSError as error:
        fix = "mend the store's permissions first: it is where the nodes are to meet"
        return Report(quick=quick, findings=(fail("nodes", f"{store}: {error.strerror}", fix=fix),))
    hosts = unique_names(nodes)
    findings = [*pool_findings(machines, pools), *_node_findings(states, hosts, ours=installed_versions())]
    for node, clock in clocks.items():
        findings += on_host(hosts[node], [_clock_finding(clock)])
    names = [hosts[node.id] for node in nodes]
    findings += pair_findings(names, speeds, expected_gigabits=_expected_gigabits(machines))
    versions = {hosts[node]: state.versions for node, state in answering.items()}
    return Report(quick=quick, findings=tuple(findings), versions=versions)


def unique_names(nodes: Sequence[Node]) -> dict[str, str]:
    """Return, by Ray's id, what tells a node from the others: its name, else its address, else that and its port."""
    hosts = Counter(node.host for node in nodes)
    addresses = Counter(node.address.rpartition(":")[0] for node in nodes)

    def name(node: Node) -> str:
        address = node.address.rpartition(":")[0]
        return node.host if hosts[node.host] == 1 else address if addresses[address] == 1 else node.address

    return {node.id: name(node) for node in nodes}


def _node_findings(
    states: Mapping[str, NodeState | str], hosts: Mapping[str, str], *, ours: Mapping[str, str]
) -> list[Finding]:
    findings: list[Finding] = []
    for node, state in states.items():
        if isinstance(state, str):
            findings += on_host(hosts[node], [fail("node", state, fix=RESTART_FIX)])
        else:
            findings += on_host(hosts[node], [*state.findings, version_finding(ours, state.versions)])
    return findings


def _clock_finding(clock: Clock | str) -> Finding:
    if isinstance(clock, str):
        return fail("node", clock, fix=RESTART_FIX)
    return clock_finding(clock.skew_seconds, clock.within_seconds)


def pool_findings(machines: ClusterConfig, pools: Mapping[str, list[list[Node]]]) -> list[Finding]:
    """Report what is there of each pool; of one with members for each of them, and whether they go together."""
    findings: list[Finding] = []
    for name, nodes in pools.items():
        pool = machines.pools[name]
        for number, (kind, own) in enumerate(zip(pool.kinds(), nodes, strict=True)):
            check = f"pool {name}, {name_of_kind(pool, number)}" if pool.members else f"pool {name}"
            # An elastic pool goes on without a member for as long as its machines are away.
            findings.append(
                _kind_finding(check, kind, own, may_be_away=bool(pool.members and pool.min_ranks and kind.machines))
            )
        if pool.members and all(finding.level != "FAIL" for finding in findings[-len(nodes) :]):
            try:
                device_of_all(pool, nodes)
            except UserError as error:
                findings.append(fail_with_error(f"pool {name}", error))
    return findings


def _kind_finding(check: str, pool: PoolConfig, nodes: Sequence[Node], *, may_be_away: bool) -> Finding:
    missing = missing_machines(pool, nodes)
    num_gpus = sum(node.num_gpus for node in nodes)
    gpus = f", {num_gpus} GPUs" if num_gpus else ""
    seen = f"{len(nodes)} nodes, {sum(node.num_cpus for node in nodes)} cores{gpus}"
    if not nodes and not may_be_away:
        fix = "ray start --labels, or mend the pool"
        return fail(check, "no node has its accelerator and labels", fix=fix)
    if nodes and pool.wants_gpus and not num_gpus:
        fix = "see nvidia-smi on the nodes, ray start --num-gpus, or device: cpu in the pool"
        return fail(check, f"{seen}, and no GPU, which it wants", fix=fix)
    if missing:
        fix = "see nvidia-smi and ray status on what is missing, or mend `machines` in the pool"
        return warn(check, f"{seen}; missing of its machines: {missing}", fix=fix)
    return ok(check, seen)


def _expected_gigabits(machines: ClusterConfig) -> float | None:
    """Return the speed of the slowest network that the cluster file describes, in Gbit/s; None if it describes none."""
    kinds = [kind for pool in machines.pools.values() for kind in pool.kinds()]
    described = [kind.machines.network_gbps_per_node for kind in kinds if kind.machines]
    return min((gigabits for gigabits in described if gigabits), default=None)


@contextmanager
def joined_ray(address: str) -> Iterator[None]:
    """Be a driver of a Ray during the block, or longer where this process was one before."""
    was_driver = ray.is_initialized()
    connect(address)
    try:
        yield
    finally:
        if not was_driver:
            ray.shutdown()


class Probe:
    """An actor on a node, through which it is examined."""

    def examine(self, needs: NodeNeeds) -> NodeState:
        """Return the node's own findings."""
        return examine_node(needs)

    def now(self) -> float:
        """Return the node's time, in seconds since 1970."""
        return time.time()

    def free_port(self) -> int:
        """Return a free port of the node."""
        return free_port()

    def measure(self, rank: int, address: str, port: int, own_address: str, backend: Literal["gloo", "nccl"]) -> Speed:
        """Be one of the two ranks of a pair."""
        return measure_speed(rank, address, port, own_address=own_address, backend=backend)


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

    def examine(self, needs: Callable[[Node], NodeNeeds], *, timeout_seconds: float) -> dict[str, NodeState | str]:
        """Return, by Ray's id of the node, its state, or why there is none."""
        ids = [node.id for node in self.nodes]
        calls = [actor.examine.remote(needs(node)) for actor, node in zip(self._actors, self.nodes, strict=True)]
        return dict(zip(ids, _results(calls, timeout_seconds=timeout_seconds), strict=True))

    def read_clocks(self, alive: Mapping[str, object]) -> dict[str, Clock | str]:
        """Return, by Ray's id, the clocks of those nodes that are in `alive`, or why one says nothing."""
        actors = {node.id: actor for node, actor in zip(self.nodes, self._actors, strict=True) if node.id in alive}
        return {node: _read_clock(actor) for node, actor in actors.items()}

    def measure_speeds(self, pairs: Sequence[Pair]) -> dict[Pair, Speed | str | None]:
        """Return the speeds of pairs of indices of nodes, or why there is none (None: GPUs are in use).

        Pairs that have no node in common are measured at the same time.
        """
        if not pairs:  # a GPU would be taken on every node for nothing
            return {}
        backend: Literal["gloo", "nccl"] = "nccl" if all(node.num_gpus for node in self.nodes) else "gloo"
        actors = [self._start(node, num_gpus=1) for node in self.nodes] if backend == "nccl" else self._actors
        times = _results([actor.now.remote() for actor in actors], timeout_seconds=MEET_SECONDS)
        is_up = [not isinstance(answer, str) for answer in times]
        speeds: dict[Pair, Speed | str | None] = {pair: None for pair in pairs if not all(is_up[i] for i in pair)}
        for pairs_at_once in split_into_rounds([pair for pair in pairs if pair not in speeds]):
            speeds |= self._measure_round(actors, pairs_at_once, backend)
        if backend == "nccl":
            for actor in actors:
                ray.kill(actor)
        return speeds

    def _measure_round(
        self, actors: Sequence[Any], pairs: Sequence[Pair], backend: Literal["gloo", "nccl"]
    ) -> dict[Pair, Speed | str | None]:
        addresses = [node.address.rpartition(":")[0] for node in self.nodes]
        ports = _results([actors[first].free_port.remote() for first, _ in pairs], timeout_seconds=MEET_SECONDS)
        calls = [
            actors[index].measure.remote(rank, addresses[pair[0]], port, addresses[index], backend)
            for pair, port in zip(pairs, ports, strict=True)
            for rank, index in enumerate(pair)
            if not isinstance(port, str)
        ]
        results = iter(_results(calls, timeout_seconds=_PAIR_SECONDS))
        return {
            pair: port if isinstance(port, str) else _slower(next(results), next(results))
            for pair, port in zip(pairs, ports, strict=True)
        }

    @staticmethod
    def _start(node: Node, *, num_gpus: int) -> Any:
        on_node = NodeAffinitySchedulingStrategy(node.id, soft=False)
        return ray.remote(Probe).options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=on_node).remote()


def _read_clock(actor: Any) -> Clock | str:
    """Compare a node's clock with this host's, by the quickest of some round trips."""
    best = Clock(0.0, float("inf"))
    for _ in range(_NUM_CLOCK_READINGS):
        before = time.time()
        (remote,) = _results([actor.now.remote()], timeout_seconds=QUICK_NODE_SECONDS)
        after = time.time()
        if isinstance(remote, str):
            return remote
        best = min(best, Clock(remote - (before + after) / 2, (after - before) / 2), key=lambda c: c.within_seconds)
    return best


def _results(calls: Sequence[Any], *, timeout_seconds: float) -> list[Any]:
    """Return the results of calls; in the place of one that fails, why, as text."""
    ready = set(ray.wait(list(calls), num_returns=len(calls), timeout=timeout_seconds)[0]) if calls else set()
    return [_result(call) if call in ready else f"no answer within {timeout_seconds:.0f} s" for call in calls]


def _result(call: Any) -> Any:
    try:
        return ray.get(call)
    except RayError as error:
        text = str(error)
        if any(word in text for word in _IMPORT_ERRORS):
            return "Concord, or a package that it needs, cannot be imported there"
        cause = getattr(error, "cause", None)
        return first_line(cause if isinstance(cause, BaseException) else error)


def _slower(first: Speed | str, second: Speed | str) -> Speed | str:
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else second
    return min(first, second, key=lambda speed: speed.gigabits_per_second)
