"""What this host lets its processes use: cores, GPUs, memory with the limits of control groups, and memory kills."""

import os
import re
import shutil
import socket
from pathlib import Path

from cluster.host.programs import run_program
from cluster.machines import Node
from configs.base import StartUpError

NVIDIA_SMI_SECONDS = 60.0
"""Time limit of nvidia-smi, which takes seconds a GPU where no persistence daemon runs."""

_MEMORY_LIMITS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container's control group: version 2, version 1."""

_KILL_COUNTERS = ("sys/fs/cgroup{}/memory.events", "sys/fs/cgroup/memory{}/memory.oom_control")
"""Where a control group counts its memory kills: version 2, version 1."""

_UNLIMITED_BYTES = 2**60
"""A limit from here on is none: version 1 says so with a number near 2**63."""


def this_machine(num_gpus: int) -> Node:
    """Return this host as a Node: the cores that this process may use, and all of the host's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(socket.gethostname(), len(os.sched_getaffinity(0)), num_gpus, memory)


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
    """Return the free and the total bytes of memory, by the kernel and by the limit of a container if it has one."""
    lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines())
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for limit, used in _MEMORY_LIMITS:
        most = _read_number(root / limit)
        if most is not None and most < min(total, _UNLIMITED_BYTES):
            free, total = min(free, most - (_read_number(root / used) or 0)), most
    return free, total


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
