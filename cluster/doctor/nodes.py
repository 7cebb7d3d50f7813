"""The nodes of a running Ray: each examined by itself, then all compared."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cluster.doctor.agreement import Clock, clock_finding, version_finding
from cluster.doctor.disk import locked_file
from cluster.doctor.node import Need, NodeState, needs
from cluster.doctor.pairs import pair_findings, pairs_of
from cluster.doctor.report import Finding, Report, fail, ok, on
from cluster.doctor.software import versions
from cluster.machines import Node
from configs.base import UserError
from configs.cluster import ClusterConfig

START_AGAIN = "on that node: ray stop, then start Ray again in Concord's environment, where `import cluster` works"


def examine_nodes(machines: ClusterConfig, *, address: str, store: Path, quick: bool) -> Report:
    """What the nodes of the pools say, and pairs of them. Loads ray, and joins the one at `address`."""
    from cluster.doctor.ray_probe import NODE_SECONDS, QUICK_NODE_SECONDS, Probes, joined, pool_nodes

    try:
        with joined(address), locked_file(store) as locked:
            pools = pool_nodes(machines)
            nodes = list({node.id: node for found in pools.values() for node in found}.values())

            def need(node: Node) -> Need:
                return needs(machines, store, quick=quick, gpus=bool(node.num_gpus), locked=locked)

            with Probes(nodes) as probes:
                states = probes.examine(need, seconds=QUICK_NODE_SECONDS if quick else NODE_SECONDS)
                answering = {node: state for node, state in states.items() if isinstance(state, NodeState)}
                clocks = probes.clocks(answering)
                pairs = [] if quick or len(answering) < len(nodes) else pairs_of(len(nodes))
                speeds = probes.speeds(pairs)
    except UserError as error:
        seen, _, fix = str(error).partition("; ")
        return Report(quick=quick, findings=(fail("nodes", seen, fix=fix),))
    except OSError as error:
        fix = "mend the store's permissions first: it is where the nodes are to meet"
        return Report(quick=quick, findings=(fail("nodes", f"{store}: {error.strerror}", fix=fix),))
    hosts = names_of(nodes)
    findings = [*_pools(pools), *_nodes(states, hosts, here=versions())]
    for node, clock in clocks.items():
        findings += on(hosts[node], [_clock(clock)])
    names = [hosts[node.id] for node in nodes]
    findings += pair_findings(names, speeds, expected_gigabits=_network(machines))
    there = {hosts[node]: state.versions for node, state in answering.items()}
    return Report(quick=quick, findings=tuple(findings), versions=there)


def names_of(nodes: list[Node]) -> dict[str, str]:
    """By Ray's id, what tells a node from the others: its name, else its address, else that with its raylet's port."""
    hosts = Counter(node.host for node in nodes)
    addresses = Counter(node.address.rpartition(":")[0] for node in nodes)

    def name(node: Node) -> str:
        address = node.address.rpartition(":")[0]
        return node.host if hosts[node.host] == 1 else address if addresses[address] == 1 else node.address

    return {node.id: name(node) for node in nodes}


def _nodes(
    states: Mapping[str, NodeState | str], hosts: Mapping[str, str], *, here: Mapping[str, str]
) -> list[Finding]:
    findings: list[Finding] = []
    for node, state in states.items():
        if isinstance(state, str):
            findings += on(hosts[node], [fail("node", state, fix=START_AGAIN)])
        else:
            findings += on(hosts[node], [*state.findings, version_finding(here, state.versions)])
    return findings


def _clock(clock: Clock | str) -> Finding:
    if isinstance(clock, str):
        return fail("node", clock, fix=START_AGAIN)
    return clock_finding(clock.skew_seconds, clock.within_seconds)


def _pools(pools: Mapping[str, list[Node]]) -> list[Finding]:
    return [
        ok(f"pool {name}", f"{len(nodes)} nodes, {sum(n.num_cpus for n in nodes)} cores")
        if nodes
        else fail(f"pool {name}", "no node has its accelerator and labels", fix="ray start --labels, or mend the pool")
        for name, nodes in pools.items()
    ]


def _network(machines: ClusterConfig) -> float | None:
    """The slowest network that the cluster file tells of, in Gbit/s."""
    told = [pool.machines.network_gbps_per_node for pool in machines.pools.values() if pool.machines]
    return min((gigabits for gigabits in told if gigabits), default=None)
