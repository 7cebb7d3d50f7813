"""Whether the tools of a launcher are there and what they talk to answers."""

import shutil
from collections import Counter

from cluster.doctor.report import Finding, fail, fail_with_error, ok
from cluster.host.programs import run_program
from cluster.launch.launcher import launcher_for
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.launchers import KubernetesLauncher, SlurmLauncher, node_groups, slurm_for

_UP = ("idle", "mixed", "allocated", "completing", "mix", "alloc", "comp")
"""States of a node (sinfo(1)) from which it can take a job, now or later."""


def launcher_findings(machines: ClusterConfig) -> list[Finding]:
    """Check what `concord submit` would use."""
    launcher = machines.launcher
    check = f"launcher {launcher.kind}"
    try:
        launcher_for(machines).check()
    except UserError as error:
        return [fail_with_error(check, error)]
    match launcher:
        case SlurmLauncher():
            found = _partition_findings(launcher, machines)
            answers = all(one.level == "OK" for one in found)  # it has its authentication, by whichever socket
            return found if answers else [_munge_finding(), *found]
        case KubernetesLauncher():
            return _kubernetes_findings(launcher)
        case _:
            return [ok(check, "takes runs")]


def _munge_finding() -> Finding:
    """Check whether munge works, as the cause why Slurm does not; clusters may use another authentication."""
    if shutil.which("munge") is None:
        return ok("munge", "not here; Slurm may have its own authentication")
    credential = run_program(["munge", "-n"])
    if not credential.ok:
        return fail("munge", credential.last_line, fix="systemctl start munge (as root)")
    check = run_program(["unmunge"], stdin=credential.output)
    if check.ok:
        return ok("munge", "credentials are made and read")
    return fail("munge", check.last_line, fix="the same /etc/munge/munge.key and the same time on every node")


def _partition_findings(launcher: SlurmLauncher, machines: ClusterConfig) -> list[Finding]:
    """Check each partition that the job asks for nodes of."""
    asked: Counter[str | None] = Counter()
    for group in node_groups(launcher, machines.pools):
        asked[slurm_for(launcher, group.kind).partition] += group.num_nodes
    return [_partition_finding(partition, number) for partition, number in asked.items()]


def _partition_finding(partition: str | None, num_nodes: int) -> Finding:
    """Check that slurmctld answers, and that a partition, or else Slurm's default, could ever give so many nodes."""
    listing = run_program(["sinfo", "-h", *(["-p", partition] if partition else []), "-o", "%D %T %R"])
    if not listing.ok:
        fix = "check that slurmctld is up (scontrol ping) and that /etc/slurm/slurm.conf, or SLURM_CONF, names it"
        return fail("Slurm", listing.last_line, fix=fix)
    rows = [line.split(maxsplit=2) for line in listing.output.splitlines()]
    num_up = sum(int(row[0]) for row in rows if row[1].strip("*~#!%$@^-").lower() in _UP)
    name = f"partition {partition}" if partition else "Slurm"
    if not rows:
        return fail("Slurm", f"there is no {name}", fix="set `partition` in the cluster file; sinfo lists them")
    if num_up < num_nodes:
        fix = "lower num_nodes, or take another partition; sinfo -R says why nodes are down"
        return fail("Slurm", f"{name}: {num_up} nodes are up, {num_nodes} are asked for", fix=fix)
    return ok("Slurm", f"{name}: {num_up} nodes are up, {num_nodes} asked for")


def _kubernetes_findings(launcher: KubernetesLauncher) -> list[Finding]:
    """Check that this user may make RayJobs, of a Kubernetes that answers and has them."""
    namespace = ["-n", launcher.namespace, "--request-timeout=5s"]
    may = run_program(["kubectl", "auth", "can-i", "create", "rayjobs.ray.io", *namespace])
    there = ok("KubeRay", "rayjobs.ray.io is there")
    if may.ok:
        return [there, ok("kubectl", f"RayJobs can be made in {launcher.namespace}")]
    if not may.output.startswith("no"):
        return [there, fail("kubectl", may.last_line, fix="kubectl auth can-i create rayjobs.ray.io must answer")]
    fix = f"ask for a role with create, get, list, patch and delete on rayjobs.ray.io in {launcher.namespace}"
    return [there, fail("kubectl", f"no right to make RayJobs in {launcher.namespace}", fix=fix)]
