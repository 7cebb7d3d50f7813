"""`concord conform`: a record is made, shown and compared; a kind of checks that fails takes no other with it."""

import json

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


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="there is no directory"):
        run(tmp_path, record=tmp_path / "nowhere" / "conform.json")


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
