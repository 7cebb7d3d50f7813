"""What this host lets its processes use: cores, GPUs, memory with the limits of control groups, and memory kills."""

import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from cluster.devices import device_by_driver_name
from cluster.host.programs import run_program
from cluster.machines import Node
from configs.base import MIB, StartUpError

NVIDIA_SMI_SECONDS = 60.0
"""Time limit of nvidia-smi, which takes seconds a GPU where no persistence daemon runs."""

OBJECT_STORE_BYTES = 256 * MIB
"""Memory for the objects of a Ray of ours. Stages pass files, so little is enough; /dev/shm is small in containers."""

_MEMORY_LIMITS = (
    ("sys/fs/cgroup{}/memory.max", "sys/fs/cgroup{}/memory.current"),
    ("sys/fs/cgroup/memory{}/memory.limit_in_bytes", "sys/fs/cgroup/memory{}/memory.usage_in_bytes"),
)
"""Limit and use of a control group: version 2, version 1."""

_CPU_QUOTA = "sys/fs/cgroup{}/cpu.max"
"""Microseconds of CPU time in each period, and the period (version 2): how containers are given fewer cores."""

_KILL_COUNTERS = ("sys/fs/cgroup{}/memory.events", "sys/fs/cgroup/memory{}/memory.oom_control")
"""Where a control group counts its memory kills: version 2, version 1."""

_UNLIMITED_BYTES = 2**60
"""A limit from here on is none: version 1 says so with a number near 2**63."""


@dataclass(frozen=True)
class GpuAnswer:
    """What the driver of a host says of its GPUs."""

    driver_name: str
    """Name of the first."""

    memory_bytes: int | None
    """Memory of the smallest that a process can have; None where slices of GPUs (MIG) are used."""


def this_machine(num_gpus: int) -> Node:
    """Return this host as a Node: the cores that this process may use, and the memory that it may have."""
    answer = ask_gpus() if num_gpus else None
    device = device_by_driver_name(answer.driver_name) if answer else None
    return Node(
        socket.gethostname(),
        num_cores(),
        num_gpus,
        memory_bytes()[1],
        accelerator=next(iter(device.ray_names), None) if device else None,
        accelerator_bytes=answer.memory_bytes if answer else None,
    )


def ask_gpus() -> GpuAnswer | None:
    """Ask nvidia-smi for the name and the memory of this host's GPUs; None if it does not answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    for fields in ("name,memory.total,memory.reserved,mig.mode.current", "name,memory.total"):  # as drivers know them
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        answer = run_program(command, timeout_seconds=NVIDIA_SMI_SECONDS)
        if answer.ok:
            return _parse_gpus(answer.output)
    return None


def _parse_gpus(text: str) -> GpuAnswer | None:
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if not rows:
        return None
    if any("Enabled" in row for row in rows):
        return GpuAnswer(rows[0][0], None)
    sizes = [
        (int(total) - (int(reserved[0]) if reserved and reserved[0].isdecimal() else 0)) * MIB
        for _, total, *reserved in rows
        if total.isdecimal()  # [N/A] where memory is the host's
    ]
    return GpuAnswer(rows[0][0], min(sizes, default=None))


def count_gpus() -> int:
    """Count the GPUs that CUDA_VISIBLE_DEVICES names, or else nvidia-smi lists, without importing torch.

    Raises StartUpError if nvidia-smi hangs.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = run_program(["nvidia-smi", "-L"], timeout_seconds=NVIDIA_SMI_SECONDS)
    if listed.exit_code is None:  # to go on without GPUs in silence would be worse
        raise StartUpError(
            f"{listed.output}; see to the NVIDIA driver (dmesg), or set CUDA_VISIBLE_DEVICES= to use no GPU"
        )
    return sum(line.startswith("GPU ") for line in listed.output.splitlines())


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """Return the free and the total bytes of memory that this process may have.

    That is by the kernel, and by the limits of its control group and of those that this is in: a container's, or a
    Slurm job's.
    """
    lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines())
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for group in _own_groups(root, "memory"):
        for limit, used in _MEMORY_LIMITS:
            most = _read_number(root / limit.format(group))
            if most is not None and most < _UNLIMITED_BYTES:
                free, total = min(free, most - (_read_number(root / used.format(group)) or 0)), min(total, most)
    return free, total


def num_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use, by its affinity and the quotas of its control groups."""
    return max(1, int(cores_of_time(root)))


def cores_of_time(root: Path = Path("/")) -> float:
    """Return the time on cores that this process may use in a second, in seconds: a quota may be a part of a core."""
    cores = float(len(os.sched_getaffinity(0)))
    for group in _own_groups(root, "cpu"):
        quota, _, period = _read(root / _CPU_QUOTA.format(group)).partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            cores = min(cores, int(quota) / int(period))
    return cores


def _own_groups(root: Path, controller: str) -> list[str]:
    """Return the paths of this process's control group and of those that it is in, the root's, "", included."""
    groups = {""}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            parts = path.strip("/").split("/")
            groups |= {"".join(f"/{part}" for part in parts[:number] if part) for number in range(1, len(parts) + 1)}
    return sorted(groups)


def num_memory_kills(root: Path = Path("/")) -> int:
    """Count the processes that the kernel has killed for want of memory.

    The count is that of this process's control group, or where that has none, of the host since it booted. The kernel
    keeps no list of the victims, so a caller compares two counts.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            for counter in _KILL_COUNTERS:
                if (found := _find_kills(_read(root / counter.format(path.rstrip("/"))))) is not None:
                    return found
    return _find_kills(_read(root / "proc/vmstat")) or 0


def _find_kills(text: str) -> int | None:
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _read_number(path: Path) -> int | None:
    """Read a number; None where there is no such file, or it says `max`."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
