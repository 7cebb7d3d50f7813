"""What this host lets its processes use."""

from pathlib import Path

import pytest

from cluster.host import limits
from cluster.host.limits import (
    ask_gpus,
    cores_of_time,
    count_gpus,
    memory_bytes,
    num_cores,
    num_memory_kills,
    this_machine,
)
from configs.base import GIB, MIB


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


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/slurm/job_7/step_0/user/task_0", "slurm/job_7", "memory.max", "memory.current"),
        ("9:memory:/slurm/job_7/step_0", "memory/slurm/job_7", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_memory_is_limited_by_the_groups_that_the_own_one_is_in(tmp_path, line, folder, limit, used):
    """Slurm sets the limit of a job two levels above the process."""
    kib = GIB // 1024
    write(tmp_path / "proc/meminfo", f"MemTotal: {8 * kib} kB\nMemFree: {kib} kB\nMemAvailable: {6 * kib} kB\n")
    write(tmp_path / "proc/self/cgroup", line + "\n")
    write(tmp_path / "sys/fs/cgroup" / folder / limit, f"{4 * GIB}\n")
    write(tmp_path / "sys/fs/cgroup" / folder / used, f"{GIB}\n")
    assert memory_bytes(tmp_path) == (3 * GIB, 4 * GIB)


def test_cores_are_limited_by_the_quota_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda pid: set(range(16)))
    write(tmp_path / "proc/self/cgroup", "0::/pod/one\n")
    assert num_cores(tmp_path) == 16
    write(tmp_path / "sys/fs/cgroup/pod/cpu.max", "max 100000\n")
    assert num_cores(tmp_path) == 16
    write(tmp_path / "sys/fs/cgroup/pod/cpu.max", "350000 100000\n")
    assert num_cores(tmp_path) == 3
    write(tmp_path / "sys/fs/cgroup/pod/cpu.max", "50000 100000\n")
    assert num_cores(tmp_path) == 1 and cores_of_time(tmp_path) == 0.5


SMI = """#!/bin/sh
case "$1" in
  *reserved*) {new} ;;
  *) printf '%s\\n' 'NVIDIA A100-SXM4-80GB, 81920' ;;
esac
"""


@pytest.mark.parametrize(
    ("new", "mib"),
    [
        ("printf '%s\\n' 'NVIDIA H200, 143771, 615, Disabled' 'NVIDIA H200, 140000, 615, Disabled'", 140000 - 615),
        ("printf '%s\\n' 'NVIDIA H200, 143771, [N/A], [N/A]'", 143771),
        ("echo 'Field memory.reserved is not a valid field'; exit 2", 81920),  # an older driver
        ("printf '%s\\n' 'NVIDIA H100, 81559, 500, Enabled'", None),  # slices, of a size that is not the GPU's
        ("printf '%s\\n' 'NVIDIA GB10, [N/A], [N/A], [N/A]'", None),
    ],
)
def test_a_driver_is_asked_for_the_memory_of_its_smallest_gpu(tmp_path, monkeypatch, new, mib):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert ask_gpus() is None
    write(tmp_path / "nvidia-smi", SMI.format(new=new))
    (tmp_path / "nvidia-smi").chmod(0o755)
    answer = ask_gpus()
    assert answer is not None and answer.memory_bytes == (None if mib is None else mib * MIB)


def test_this_machine_has_the_gpus_that_its_driver_names(tmp_path, monkeypatch):
    write(tmp_path / "nvidia-smi", SMI.format(new="exit 2"))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    here = this_machine(1)
    assert (here.num_gpus, here.accelerator, here.accelerator_bytes) == (1, "A100", 81920 * MIB)
    assert this_machine(0).accelerator_bytes is None


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
