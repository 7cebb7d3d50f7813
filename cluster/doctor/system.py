"""The machine: memory, shared memory, open files."""

import os
import resource
import shutil
from pathlib import Path

from cluster.doctor.report import Finding, fail, ok, warn

GIB = 2**30

LITTLE_SHARED_BYTES = GIB // 2
"""Ray's objects (256 MiB here), NCCL and data loaders live in it; containers give 64 MiB unless told otherwise."""

FEW_FILES, TOO_FEW_FILES = 4096, 1024
"""Ray warns below the first."""

_SHARED = Path("/dev/shm")
_UNLIMITED = 2**60


def system_findings() -> list[Finding]:
    """Checks of the machine that take no time."""
    return [shared_memory_finding(_SHARED), open_files_finding(), memory_finding()]


def shared_memory_finding(directory: Path) -> Finding:
    """Whether shared memory is there and large enough."""
    fix = "mount -o remount,size=8G /dev/shm; docker run --shm-size=8g; Kubernetes: an emptyDir of medium Memory there"
    if not directory.is_dir():
        return warn("shared memory", f"there is no {directory}: Ray uses slower files", fix=fix)
    usage = shutil.disk_usage(directory)
    seen = f"{usage.free / GIB:.2f} GiB free of {usage.total / GIB:.2f} in {directory}"
    return ok("shared memory", seen) if usage.free >= LITTLE_SHARED_BYTES else warn("shared memory", seen, fix=fix)


def open_files_finding() -> Finding:
    """Whether a process may open files enough."""
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
    """Whether memory is free, by the kernel and by the limits of a container."""
    free, total = _memory()
    seen = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free >= max(2 * GIB, total // 10):
        return ok("memory", seen)
    return warn("memory", seen, fix="end what else runs there (ps aux --sort=-rss | head), or raise the limit")


def _memory() -> tuple[int, int]:
    """Free and total bytes."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most = _number(Path(limit))
        if most is not None and most < min(total, _UNLIMITED):
            free, total = min(free, most - (_number(Path(used)) or 0)), most
    return free, total


def _number(path: Path) -> int | None:
    """A number from a file; None where there is no such file, or it says `max`."""
    text = path.read_text(encoding="ascii").strip() if os.access(path, os.R_OK) else ""
    return int(text) if text.isdecimal() else None
