"""Disks."""

import errno

from cluster.doctor import disk


def test_a_good_store_has_no_failures_and_is_left_as_it_was(tmp_path):
    findings = disk.store_findings(tmp_path / "not" / "there", quick=True)
    assert {f.check for f in findings} == {"store permissions", "store space", "store locks", "store speed"}
    assert [f for f in findings if f.level == "FAIL"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_fails_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    (finding,) = disk.store_findings(tmp_path / "file" / "store", quick=True)
    assert finding.level == "FAIL"
    assert finding.check == "store permissions"
    assert "--set store=DIR" in finding.fix


def test_a_full_disk_fails_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "TOO_FEW_BYTES", 2**80)
    (finding,) = disk.store_findings(tmp_path, quick=True)
    assert (finding.check, finding.level) == ("store space", "FAIL")


def test_a_small_disk_that_cannot_be_written_is_not_said_to_be_full(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "TOO_FEW_BYTES", 2**80)
    monkeypatch.setattr("os.access", lambda path, mode: False)

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    (finding,) = disk.store_findings(tmp_path, quick=True)
    assert (finding.check, finding.level) == ("store permissions", "FAIL")
    assert "remount,rw" in finding.fix


def test_a_slow_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SLOW_MIB", 1e9)
    assert [f.check for f in disk.store_findings(tmp_path, quick=True) if f.level == "WARN"] == ["store speed"]


def test_a_shared_store_has_the_same_files_and_locks(tmp_path):
    with disk.locked_file(tmp_path) as locked:
        assert disk.sharing_finding(locked).level == "OK"
        assert disk.sharing_finding(tmp_path / "another").level == "FAIL"
    unlocked = tmp_path / "unlocked"
    unlocked.touch()
    assert "two runs" in disk.sharing_finding(unlocked).seen
