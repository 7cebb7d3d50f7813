"""How many processes the kernel has ended for want of memory: by itself it tells nobody who could be asked later."""

import re
from pathlib import Path

_COUNTERS = ("sys/fs/cgroup{}/memory.events", "sys/fs/cgroup/memory{}/memory.oom_control")
"""Of a control group: version 2, version 1."""


def num_memory_kills(root: Path = Path("/")) -> int:
    """In this process's control group, or where that does not say, on this host since it booted."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            for counter in _COUNTERS:
                if (found := _count(_read(root / counter.format(path.rstrip("/"))))) is not None:
                    return found
    return _count(_read(root / "proc/vmstat")) or 0


def _count(text: str) -> int | None:
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
