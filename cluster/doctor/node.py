"""What is examined on one node, wherever the function runs; and its memory, shared memory and open files."""

import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor.disk import sharing_finding, store_findings, temporary_findings
from cluster.doctor.gpus import gpu_findings
from cluster.doctor.report import Finding, fail, ok, warn
from cluster.doctor.software import compiler_finding, installed_versions
from cluster.host.limits import memory_bytes
from configs.base import GIB
from configs.cluster import ClusterConfig

LOW_SHARED_BYTES = GIB // 2
"""Ray's objects (256 MiB here), NCCL and data loaders live in it; containers give 64 MiB unless told otherwise."""

FEW_FILES, TOO_FEW_FILES = 4096, 1024
"""Ray warns below the first."""

_SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class NodeNeeds:
    """What a node is examined for."""

    store: Path
    """An absolute path."""

    quick: bool
    compiler: bool
    """Whether a pool needs one."""

    gpus: bool
    """Whether the node should have some."""

    locked: Path | None = None
    """A file of the store that the examining host has locked."""


@dataclass(frozen=True)
class NodeState:
    """A node's own findings, and its versions for others to compare with."""

    findings: tuple[Finding, ...]
    versions: dict[str, str]


def node_needs(
    machines: ClusterConfig, store: Path, *, quick: bool, gpus: bool, locked: Path | None = None
) -> NodeNeeds:
    """Return what a cluster file asks of a node."""
    compiler = any(pool.offload_optimizer or pool.compile for pool in machines.pools.values())
    return NodeNeeds(store=store, quick=quick, compiler=compiler, gpus=gpus, locked=locked)


def examine_node(needs: NodeNeeds) -> NodeState:
    """Examine the node that this runs on."""
    findings = [
        compiler_finding(needed=needs.compiler),
        *gpu_findings(wanted=needs.gpus, quick=needs.quick),
        shared_memory_finding(_SHARED),
        open_files_finding(),
        memory_finding(),
        *temporary_findings(quick=needs.quick),
        *([] if needs.locked is None else [sharing_finding(needs.locked)]),
        *store_findings(needs.store, quick=needs.quick),
    ]
    return NodeState(tuple(findings), installed_versions())


def shared_memory_finding(directory: Path) -> Finding:
    """Check that shared memory is there and large enough."""
    fix = "mount -o remount,size=8G /dev/shm; docker run --shm-size=8g; Kubernetes: an emptyDir of medium Memory there"
    if not directory.is_dir():
        return warn("shared memory", f"there is no {directory}: Ray uses slower files", fix=fix)
    usage = shutil.disk_usage(directory)
    seen = f"{usage.free / GIB:.2f} GiB free of {usage.total / GIB:.2f} in {directory}"
    return ok("shared memory", seen) if usage.free >= LOW_SHARED_BYTES else warn("shared memory", seen, fix=fix)


def open_files_finding() -> Finding:
    """Check that a process may open enough files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        return ok("open files", f"at most {'any number' if soft == resource.RLIM_INFINITY else f'{soft:,}'}")
    enough = hard == resource.RLIM_INFINITY or hard >= FEW_FILES
    fix = (
        f"ulimit -n {65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)}, before Ray starts on the node"
        if enough
        else "raise the hard limit (nofile in /etc/security/limits.conf, LimitNOFILE= of the service), then ulimit -n"
    )
    seen = f"at most {soft:,} (ulimit -n)"
    return fail("open files", seen, fix=fix) if soft < TOO_FEW_FILES else warn("open files", seen, fix=fix)


def memory_finding() -> Finding:
    """Check that memory is free, by the kernel and by the limits of a container."""
    free, total = memory_bytes()
    seen = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free >= max(2 * GIB, total // 10):
        return ok("memory", seen)
    return warn("memory", seen, fix="end what else runs there (ps aux --sort=-rss | head), or raise the limit")
