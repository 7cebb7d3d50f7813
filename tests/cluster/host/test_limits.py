"""What this host lets its processes use."""

from pathlib import Path

import pytest

from cluster.host.limits import count_gpus, memory_bytes, num_memory_kills
from configs.base import GIB


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "counter", "text"),
    [
        ("0::/job/7\n", "sys/fs/cgroup/job/7/memory.events", "low 0\noom 5\noom_kill 3\noom_group_kill 0\n"),
        ("5:cpu:/\n4:memory:/job/7\n", "sys/fs/cgroup/memory/job/7/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("0::/hidden\n", "proc/vmstat", "nr_free_pages 1\noom_kill 3\n"),
    ],
)
def test_memory_kills_are_those_of_the_control_group_or_else_of_the_host(tmp_path, groups, counter, text):
    write(tmp_path / "proc/self/cgroup", groups)
    write(tmp_path / "proc/vmstat", "oom_kill 9\n")
    write(tmp_path / counter, text)
    assert num_memory_kills(tmp_path) == 3


def test_where_nothing_counts_memory_kills_there_are_none(tmp_path):
    assert num_memory_kills(tmp_path) == 0


@pytest.mark.parametrize(
    ("files", "free_gib", "total_gib"),
    [
        ({}, 6, 8),
        ({"memory.max": "max\n", "memory.current": f"{GIB}\n"}, 6, 8),
        ({"memory.max": f"{4 * GIB}\n", "memory.current": f"{GIB}\n"}, 3, 4),
        ({"memory.max": f"{7 * GIB}\n", "memory.current": "0\n"}, 6, 7),
        ({"memory.max": f"{16 * GIB}\n", "memory.current": "0\n"}, 6, 8),
        ({"memory/memory.limit_in_bytes": f"{2 * GIB}\n", "memory/memory.usage_in_bytes": f"{GIB}\n"}, 1, 2),
        ({"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n", "memory/memory.usage_in_bytes": "0\n"}, 6, 8),
    ],
)
def test_memory_is_the_hosts_within_the_limit_of_the_container(tmp_path, files, free_gib, total_gib):
    kib = GIB // 1024
    write(tmp_path / "proc/meminfo", f"MemTotal: {8 * kib} kB\nMemFree: {kib} kB\nMemAvailable: {6 * kib} kB\n")
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert memory_bytes(tmp_path) == (free_gib * GIB, total_gib * GIB)


def test_gpus_are_those_that_the_environment_names_or_else_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3")
    assert count_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert count_gpus() == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0
    write(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: a)'\necho 'GPU 1: NVIDIA L4 (UUID: b)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert count_gpus() == 2
