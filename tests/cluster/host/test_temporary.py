"""Where a Ray puts its sockets, told before it fails with a message of its own."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from cluster.doctor.disk import temporary_findings
from cluster.host.temporary import MAX_SOCKET_BYTES, find_problem
from cluster.ray.connection import connect
from configs.base import StartUpError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_path_that_leaves_no_room_for_a_socket_is_told_with_its_variable(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_problem() is None
    room = MAX_SOCKET_BYTES - len(f"/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    fits = "/tmp/" + (room - 5) * "d"
    for path in (fits, fits + "d"):
        Path(path).mkdir()
    try:
        monkeypatch.setenv(variable, fits)
        assert find_problem() is None
        monkeypatch.setenv(variable, fits + "d")
        said = (
            f"{variable} is {fits}d, in which Ray cannot put its sockets: its path has {room + 1} bytes, and may have"
        )
        with pytest.raises(StartUpError, match=said) as caught:
            connect("local")
        assert "set RAY_TMPDIR to a directory with a shorter path" in str(caught.value)
        (finding,) = temporary_findings(quick=True)
        assert (finding.check, finding.level) == ("temporary directory", "FAIL") and said in finding.seen
    finally:
        shutil.rmtree(fits)
        Path(fits + "d").rmdir()


def test_a_directory_that_cannot_be_written_is_told_though_python_would_take_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("cluster.host.temporary.MAX_SOCKET_BYTES", 300)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    with pytest.raises(StartUpError, match=r"^TMPDIR is .*/file, which is no directory; set RAY_TMPDIR"):
        connect("local")
    (tmp_path / "ray").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(StartUpError, match=r"^TMPDIR is .*, in which Ray cannot write \(File exists\); set RAY_TMPDIR"):
        connect("local")
    (tmp_path / "ray").unlink()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert find_problem() is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "RAY_TMPDIR is set and empty"),
        ("~/t", "RAY_TMPDIR is ~/t, which does not begin with /"),
        ("/tmp/nowhere/t", "RAY_TMPDIR is /tmp/nowhere/t, which is no directory"),
    ],
)
def test_what_is_no_directory_is_told_and_not_made(
    value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", value)
    with pytest.raises(StartUpError, match=said):
        connect("local")
    assert list(tmp_path.iterdir()) == [] and not Path("/tmp/nowhere").exists()


def test_a_disk_that_takes_no_more_is_a_finding_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cluster.doctor.disk._speed_finding", full)
    (finding,) = temporary_findings(quick=True)
    assert (finding.check, finding.level) == ("temporary space", "FAIL")
    assert finding.seen == "/tmp: No space left on device"
