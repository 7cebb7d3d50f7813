"""The kernel's count of processes that it has ended for want of memory."""

from pathlib import Path

import pytest

from cluster.host.limits import num_memory_kills


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
def test_it_is_that_of_the_control_group_or_else_of_the_host(tmp_path, groups, counter, text):
    write(tmp_path / "proc/self/cgroup", groups)
    write(tmp_path / "proc/vmstat", "oom_kill 9\n")
    write(tmp_path / counter, text)
    assert num_memory_kills(tmp_path) == 3


def test_where_nothing_tells_it_is_none(tmp_path):
    assert num_memory_kills(tmp_path) == 0
