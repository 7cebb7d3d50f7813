"""What is examined on one node, wherever the function runs."""

from dataclasses import dataclass
from pathlib import Path

from cluster.doctor.disk import sharing_finding, store_findings, temporary_findings
from cluster.doctor.gpus import gpu_findings
from cluster.doctor.report import Finding
from cluster.doctor.software import compiler_finding, versions
from cluster.doctor.system import system_findings
from configs.cluster import ClusterConfig


@dataclass(frozen=True)
class Need:
    """What a node is examined for."""

    store: Path
    """Absolute."""

    quick: bool
    compiler: bool
    """Whether a pool needs one."""

    gpus: bool
    """Whether the node should have some."""

    locked: Path | None = None
    """A file of the store that the host that asks has locked."""


@dataclass(frozen=True)
class NodeState:
    """A node's own findings, and its versions for others to compare with."""

    findings: tuple[Finding, ...]
    versions: dict[str, str]


def examine_node(need: Need) -> NodeState:
    """Examine the node that this runs on."""
    findings = [
        compiler_finding(needed=need.compiler),
        *gpu_findings(wanted=need.gpus, quick=need.quick),
        *system_findings(),
        *temporary_findings(quick=need.quick),
        *([] if need.locked is None else [sharing_finding(need.locked)]),
        *store_findings(need.store, quick=need.quick),
    ]
    return NodeState(tuple(findings), versions())


def needs(machines: ClusterConfig, store: Path, *, quick: bool, gpus: bool, locked: Path | None = None) -> Need:
    """What a cluster file asks of a node."""
    compiler = any(pool.offload_optimizer or pool.compile for pool in machines.pools.values())
    return Need(store=store, quick=quick, compiler=compiler, gpus=gpus, locked=locked)
