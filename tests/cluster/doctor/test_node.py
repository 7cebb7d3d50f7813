"""Shared memory, open files and memory of a node."""

import resource

import pytest

from cluster.doctor import node

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "level", "fix"),
    [
        ((65536, 65536), "OK", ""),
        ((UNLIMITED, UNLIMITED), "OK", ""),
        ((2000, 1_000_000), "WARN", "ulimit -n 65536, before Ray starts on the node"),
        ((256, 20_000), "FAIL", "ulimit -n 20000, before Ray starts on the node"),
        ((256, 256), "FAIL", "raise the hard limit"),
    ],
)
def test_too_few_open_files_are_told_with_the_command(monkeypatch, limits, level, fix):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    finding = node.open_files_finding()
    assert finding.level == level
    assert finding.fix.startswith(fix)


def test_shared_memory_that_is_missing_or_small_is_told(tmp_path, monkeypatch):
    assert node.shared_memory_finding(tmp_path / "none").level == "WARN"
    monkeypatch.setattr(node, "LOW_SHARED_BYTES", 2**80)
    finding = node.shared_memory_finding(tmp_path)
    assert finding.level == "WARN"
    assert "--shm-size" in finding.fix


def test_memory_is_known_on_this_machine():
    assert "GiB free of" in node.memory_finding().seen
