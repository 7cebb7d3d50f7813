"""`concord conform`: a record is made, shown and compared; a kind of checks that fails takes no other with it."""

import json
import signal
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from configs.base import UserError
from pipeline.cli.app import app
from pipeline.cli.conform import conform
from tests.training.conform.test_record import record
from training.conform import run_checks
from training.conform.record import Check, judged, read_record, write_record
from training.conform.scale import Scale


def run(tmp_path, **options):
    out = Console(record=True, width=200)
    settings = {"record": tmp_path / "conform.json", "against": None, "show": None, "quick": True}
    if "show" in options:
        settings |= {"record": None, "quick": False}
    passed = conform(out, **{**settings, **options})
    return passed, out.export_text()


def test_kinds_of_checks_run_in_processes_of_their_own_and_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(run_checks, "KIND_SECONDS", {"no such kind": 60.0, "checkpoint": 90.0, "speed": 0.0})
    passed, text = run(tmp_path)
    found = read_record(tmp_path / "conform.json")
    assert not passed
    assert found.failed == ["no such kind", "speed"]
    checks = {check.name: check for check in found.checks}
    assert "KeyError" in checks["no such kind"].detail
    assert "no time left" in checks["speed"].detail
    assert checks["checkpoint failures"].passed is True
    assert checks["checkpoint to host memory"].value > 0
    assert (found.device.type, found.scale) == ("cpu", "quick")
    assert {"torch", "deepspeed", "python"} <= found.versions.keys()
    assert found.code
    assert "2 FAIL" in text
    assert str(tmp_path / "conform.json") in text


def test_a_speed_check_times_the_trainer_and_a_bare_loop(tmp_path):
    scale = run_checks.choose_scale("cpu", memory_bytes=0, has_bf16=True, quick=True)
    assert isinstance(scale, Scale)
    checks = {check.name: check for check in run_checks.run_kind("speed", "cpu", scale, tmp_path, seconds=100)}
    assert checks["step speed"].value > 0
    assert checks["step over bare loop"].value > 0
    assert 0 <= checks["step data share"].value < 100
    assert list(tmp_path.glob("speed/*")) == []


def test_records_are_shown_and_compared_without_running_anything(tmp_path):
    one = record(judged("gradient", 1e-6, limit=1e-4), Check(name="speed", value=200.0, unit="tokens/s"))
    other = record(Check(name="speed", value=100.0, unit="tokens/s"), Check(name="old", value=1.0), scale="quick")
    write_record(tmp_path / "one.json", one)
    write_record(tmp_path / "other.json", other)
    passed, text = run(tmp_path, show=tmp_path / "one.json", against=tmp_path / "other.json")
    assert passed
    assert not (tmp_path / "conform.json").exists()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["speed"][1:] == ["200", "100", "2.000", "tokens/s"]
    assert lines["gradient"][1:] == ["1.00e-06", "missing"]
    assert lines["old"][1:] == ["missing", "1"]
    assert "scales differ" in text


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere/conform.json", "no file can be made in the directory .*nowhere .No such file"),
        ("a file/conform.json", "no file can be made in the directory .*a file .Not a directory"),
        (".", "is no file; name one"),
        ("/dev/full", "/dev/full is no file; name one"),
        ("/proc/conform.json", "no file can be made in the directory /proc"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch, place, says):
    monkeypatch.setattr("pipeline.cli.conform.run_checks", lambda **_: pytest.fail("it ran"))
    (tmp_path / "a file").touch()
    with pytest.raises(UserError, match=says):
        run(tmp_path, record=tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_record_that_cannot_be_written_any_more_is_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = record(judged("gradient", 1e-6, limit=1e-4))

    def run_checks_while_the_place_goes(**_):
        (tmp_path / "there").rmdir()
        (tmp_path / "there").touch()
        return made

    (tmp_path / "there").mkdir()
    monkeypatch.setattr("pipeline.cli.conform.run_checks", run_checks_while_the_place_goes)
    with pytest.raises(UserError, match="cannot be written") as caught:
        run(tmp_path, record=tmp_path / "there" / "conform.json")
    (kept,) = tmp_path.glob("conform-*.json")
    assert str(kept) in str(caught.value)
    assert read_record(kept) == made


def test_what_is_shown_is_not_run_or_written(tmp_path):
    write_record(tmp_path / "one.json", record(judged("gradient", 1.0, limit=1e-4)))
    for further in (["--quick"], ["--out", str(tmp_path / "two.json")]):
        result = CliRunner().invoke(app, ["conform", "--show", str(tmp_path / "one.json"), *further])
        assert result.exit_code == 1
        assert "leave --quick and --out out" in str(result.exception)


def test_sigterm_ends_the_checks_with_what_they_have_begun(tmp_path):
    code = (
        "import os, signal, time\n"
        "from tempfile import TemporaryDirectory\n"
        "from pipeline.cli.conform import ends_on_sigterm\n"
        f"with ends_on_sigterm(), TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_shown_record_with_a_failure_ends_with_1(tmp_path):
    write_record(tmp_path / "one.json", record(judged("gradient", 1.0, limit=1e-4)))
    result = CliRunner().invoke(app, ["conform", "--show", str(tmp_path / "one.json")])
    assert result.exit_code == 1
    assert "FAIL" in result.output
    assert json.loads((tmp_path / "one.json").read_text())["format"] == 1


@pytest.mark.long
def test_everything_passes_on_this_machine_at_a_tiny_size(tmp_path):
    passed, text = run(tmp_path)
    assert passed, text
