"""The doctor: everything that a run on a cluster needs, looked at before it starts."""

import socket
from pathlib import Path

from cluster.doctor.address import address_finding
from cluster.doctor.disk import store_findings
from cluster.doctor.launchers import launcher_findings
from cluster.doctor.node import examine_node, needs
from cluster.doctor.nodes import examine_nodes
from cluster.doctor.report import Finding, Report
from cluster.doctor.settings import hub_finding, token_findings, wandb_finding
from cluster.doctor.software import package_findings, python_finding, versions
from configs.cluster import ClusterConfig


def examine(machines: ClusterConfig, *, store: Path, quick: bool = False) -> Report:
    """Examine this machine, what the launcher talks to, and the nodes of the pools.

    The nodes are those of the Ray that the cluster file names, or that its dashboard belongs to; with the launchers
    `slurm` and `kubernetes` there are none before a run starts, and else they are this machine. `quick` leaves out
    what takes over a second a node: torch, long writes, and pairs of nodes.
    """
    store = store.absolute()
    here = _here(machines, quick=quick)
    match machines.launcher.kind:
        case "kubernetes":  # the store is a volume of the pods
            return here
        case "slurm":
            return _joined(here, _report(store_findings(store, quick=quick), quick=quick))
        case "ray":
            here = _joined(here, _report(token_findings(), quick=quick))
            return _joined(here, _by_job(machines, store, quick=quick)) if here.healthy else here
    if machines.executor == "ray" and machines.ray_address != "local":
        address = address_finding(machines.ray_address, allow_no_token=machines.allow_no_token)
        here = _joined(here, _report([*token_findings(), address], quick=quick))
        if not here.healthy:
            return here
        return _joined(here, examine_nodes(machines, address=machines.ray_address, store=store, quick=quick))
    asks_for_gpus = any(
        pool.accelerator or (pool.machines and pool.machines.accelerators_per_node) for pool in machines.pools.values()
    )
    state = examine_node(needs(machines, store, quick=quick, gpus=asks_for_gpus))
    return _joined(here, _report(list(state.findings), quick=quick))


def _here(machines: ClusterConfig, *, quick: bool) -> Report:
    findings = [
        python_finding(),
        *package_findings(),
        hub_finding(),
        wandb_finding(machines.wandb),
        *launcher_findings(machines),
    ]
    return Report(quick=quick, findings=tuple(findings), versions={socket.gethostname(): versions()})


def _by_job(machines: ClusterConfig, store: Path, *, quick: bool) -> Report:
    from cluster.doctor.ray_job import examine_by_job

    return examine_by_job(machines, store=store, quick=quick)


def _report(findings: list[Finding], *, quick: bool) -> Report:
    return Report(quick=quick, findings=tuple(findings))


def _joined(first: Report, second: Report) -> Report:
    return first.model_copy(
        update={"findings": first.findings + second.findings, "versions": first.versions | second.versions}
    )
