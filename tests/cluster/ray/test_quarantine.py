"""Which hosts are avoided because they failed."""

import errno
from pathlib import Path

import pytest

from cluster.ray import quarantine
from cluster.ray.quarantine import NodeFailures


def test_a_host_is_avoided_once_it_has_failed_twice_whoever_saw_it(tmp_path: Path):
    path = tmp_path / "below" / "nodes.jsonl"
    first = NodeFailures(path)
    first.add("host1", reason="its node is gone")
    first.add("host2", reason="its node is gone")
    assert first.avoided() == NodeFailures(path).avoided() == frozenset()
    second = NodeFailures(path)
    second.add("host1", reason="killed")
    assert first.avoided() == second.avoided() == NodeFailures(path).avoided() == {"host1"}


def test_what_happened_more_than_a_day_apart_is_no_habit(monkeypatch: pytest.MonkeyPatch):
    failures, now = NodeFailures(None), 1e9
    monkeypatch.setattr(quarantine.time, "time", lambda: now)
    failures.add("host1", reason="killed")
    now += 86_401
    failures.add("host1", reason="killed")
    assert failures.avoided() == frozenset()
    failures.add("host1", reason="killed again, at the same moment")
    now += 1
    failures.add("host1", reason="killed")
    assert failures.avoided() == {"host1"}


def test_a_host_that_is_certain_to_fail_again_is_avoided_at_once(tmp_path: Path):
    path = tmp_path / "nodes.jsonl"
    NodeFailures(path).add("host1", reason="a process of it cannot be killed", is_certain=True)
    assert NodeFailures(path).avoided() == {"host1"}


def test_half_a_line_and_a_file_that_cannot_be_written_harm_nothing(tmp_path: Path, capsys):
    path = tmp_path / "nodes.jsonl"
    NodeFailures(path).add("host1", reason="killed")
    path.write_text(path.read_text() + '{"host": "host1", "ti\n')
    failures = NodeFailures(path)
    failures.add("host1", reason="killed")
    assert failures.avoided() == {"host1"}
    nowhere = NodeFailures(path / "nodes.jsonl")
    for _ in range(2):
        nowhere.add("host9", reason="killed")
    assert "host9 failed: killed" in capsys.readouterr().err


def test_a_file_system_that_is_away_ends_nobody_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failures = NodeFailures(tmp_path / "nodes.jsonl")
    failures.add("host1", reason="stuck", is_certain=True)

    def stale(self: Path, **_: object) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", stale)
    assert failures.avoided() == {"host1"}  # as this process knows itself
