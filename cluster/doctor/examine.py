"""The doctor: everything that a run on a cluster needs, examined before it starts."""

import socket
from collections.abc import Sequence
from pathlib import Path

from cluster.doctor.address import address_finding
from cluster.doctor.disk import store_findings
from cluster.doctor.launchers import launcher_findings
from cluster.doctor.node import examine_node, node_needs
from cluster.doctor.report import Finding, Report
from cluster.doctor.software import (
    hub_finding,
    installed_versions,
    package_findings,
    python_finding,
    token_findings,
    wandb_finding,
)
from configs.cluster import ClusterConfig


def examine(machines: ClusterConfig, *, store: Path, quick: bool = False) -> Report:
    """Examine this machine, what the launcher talks to, and the nodes of the pools.

    The nodes are those of the Ray that the cluster file names, or that its dashboard belongs to; with the launchers
    `slurm` and `kubernetes` there are none before a run starts, and otherwise they are this machine. `quick`, as before
    a submission, leaves out what takes over a second a node: torch, long writes, and pairs of nodes.
    """
    store = store.absolute()
    report = _examine_this_machine(machines, quick=quick)
    match machines.launcher.kind:
        case "kubernetes":  # the store is a volume of the pods
            return report
        case "slurm":
            return _with_findings(report, store_findings(store, quick=quick))
        case "ray":
            report = _with_findings(report, token_findings())
            return _joined(report, _examine_by_job(machines, store, quick=quick)) if report.healthy else report
    if machines.executor == "ray" and machines.ray_address != "local":
        address = address_finding(machines.ray_address, allow_no_token=machines.allow_no_token)
        report = _with_findings(report, [*token_findings(), address])
        return _joined(report, _examine_by_joining(machines, store, quick=quick)) if report.healthy else report
    asks_for_gpus = any(kind.wants_gpus for pool in machines.pools.values() for kind in pool.kinds())
    state = examine_node(node_needs(machines, store, quick=quick, gpus=asks_for_gpus))
    return _with_findings(report, state.findings)


def _examine_this_machine(machines: ClusterConfig, *, quick: bool) -> Report:
    """Check what is needed where the command is given, and the launcher."""
    findings = [
        python_finding(),
        *package_findings(),
        hub_finding(),
        wandb_finding(machines.wandb),
        *launcher_findings(machines),
    ]
    return Report(quick=quick, findings=tuple(findings), versions={socket.gethostname(): installed_versions()})


def _examine_by_job(machines: ClusterConfig, store: Path, *, quick: bool) -> Report:
    from cluster.doctor.ray_job import examine_by_job  # loads Ray, which takes a second

    return examine_by_job(machines, store=store, quick=quick)


def _examine_by_joining(machines: ClusterConfig, store: Path, *, quick: bool) -> Report:
    from cluster.doctor.nodes import examine_nodes  # loads Ray

    return examine_nodes(machines, address=machines.ray_address, store=store, quick=quick)


def _with_findings(report: Report, findings: Sequence[Finding]) -> Report:
    return report.model_copy(update={"findings": (*report.findings, *findings)})


def _joined(first: Report, second: Report) -> Report:
    """Return the findings and versions of both reports as one."""
    return _with_findings(first, second.findings).model_copy(update={"versions": first.versions | second.versions})
