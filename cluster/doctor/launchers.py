"""Whether the tools of a launcher are there and what they talk to answers."""

import shutil

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.host.programs import ask
from cluster.launch.table import launcher_for
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.launchers import KubernetesLauncher, SlurmLauncher

_UP = ("idle", "mixed", "allocated", "completing", "mix", "alloc", "comp")


def launcher_findings(machines: ClusterConfig) -> list[Finding]:
    """Checks of what `concord submit` would use."""
    launcher = machines.launcher
    check = f"launcher {launcher.kind}"
    try:
        launcher_for(machines).check()
    except UserError as error:
        seen, _, fix = str(error).partition("; ")  # house rule: what is wrong; what to do
        return [fail(check, seen, fix=fix)]
    match launcher:
        case SlurmLauncher():
            slurm = _partition(launcher)  # a Slurm that answers has its authentication, by whichever socket
            return [slurm] if slurm.level == "OK" else [_munge(), slurm]
        case KubernetesLauncher():
            return _kubernetes(launcher)
        case _:
            return [ok(check, "takes runs")]


def _munge() -> Finding:
    """Whether munge works, as the cause why Slurm does not; clusters may use another authentication."""
    if shutil.which("munge") is None:
        return ok("munge", "not here; Slurm may have its own authentication")
    answer = ask(["munge", "-n"])
    if not answer.fine:
        return fail("munge", answer.last_line, fix="systemctl start munge (as root)")
    check = ask(["unmunge"], text=answer.text)
    if check.fine:
        return ok("munge", "credentials are made and read")
    return fail("munge", check.last_line, fix="the same /etc/munge/munge.key and the same time on every node")


def _partition(launcher: SlurmLauncher) -> Finding:
    """Whether slurmctld answers, and the partition could ever give the nodes."""
    where = ["-p", launcher.partition] if launcher.partition else []
    answer = ask(["sinfo", "-h", *where, "-o", "%D %T %R"])
    if not answer.fine:
        fix = "check that slurmctld is up (scontrol ping) and that /etc/slurm/slurm.conf, or SLURM_CONF, names it"
        return fail("Slurm", answer.last_line, fix=fix)
    rows = [line.split(maxsplit=2) for line in answer.text.splitlines()]
    up = sum(int(row[0]) for row in rows if row[1].strip("*~#!%$@^-").lower() in _UP)
    name = f"partition {launcher.partition}" if launcher.partition else "Slurm"
    if not rows:
        return fail("Slurm", f"there is no {name}", fix="set `partition` in the cluster file; sinfo lists them")
    if up < launcher.num_nodes:
        fix = "lower num_nodes, or take another partition; sinfo -R says why nodes are down"
        return fail("Slurm", f"{name}: {up} nodes are up, {launcher.num_nodes} are asked for", fix=fix)
    return ok("Slurm", f"{name}: {up} nodes are up, {launcher.num_nodes} asked for")


def _kubernetes(launcher: KubernetesLauncher) -> list[Finding]:
    kind = ask(["kubectl", "get", "crd", "rayjobs.ray.io", "-o", "name", "--request-timeout=5s"])
    namespace = ["-n", launcher.namespace, "--request-timeout=5s"]
    may = ask(["kubectl", "auth", "can-i", "create", "rayjobs.ray.io", *namespace])
    if may.code is None or not (may.fine or may.text.startswith("no")):
        return [fail("kubectl", may.last_line, fix="kubectl cluster-info must answer: set KUBECONFIG or the context")]
    if not may.fine:
        fix = f"ask for a role with create, get, list, patch and delete on rayjobs.ray.io in {launcher.namespace}"
        return [fail("kubectl", f"no right to make RayJobs in {launcher.namespace}", fix=fix)]
    allowed = ok("kubectl", f"RayJobs can be made in {launcher.namespace}")
    if kind.fine:
        return [allowed, ok("KubeRay", "rayjobs.ray.io is there")]
    fix = "helm install kuberay-operator kuberay/kuberay-operator"
    return [allowed, warn("KubeRay", f"rayjobs.ray.io was not seen ({kind.last_line})", fix=fix)]
