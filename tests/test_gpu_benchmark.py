"""benchmarks/gpu.py runs on a CPU, so that nothing in it is rotten on the day a GPU is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")


def run_tiny(out: Path, *parts: str) -> dict[str, dict[str, dict[str, object]]]:
    """Return the checks of each part by name."""
    only = ("--only", *parts) if parts else ()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, SCRIPT, "run", "--tiny", "--out", str(out), *only]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    assert done.returncode == 0, done.stdout + done.stderr
    assert [lines[0]["part"], lines[-1]["part"]] == ["machine", "all"]
    return {line["part"]: {check["name"]: check for check in line["checks"]} for line in lines[1:-1]}


def test_what_is_missing_is_told_by_the_standard_library_alone():
    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, "missing"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("python3 -m pip download")]
    assert "--only-binary=:all: --python-version 3.12" in command
    assert {"pydantic==", "zstandard==", "hjson=="} <= {word.rpartition("=")[0] + "=" for word in command.split()}
    assert "ray" not in command.split()
    assert "DS_BUILD_OPS=0 python3 -m pip wheel --no-deps deepspeed==" in done.stdout


def test_nothing_is_missing_here():
    done = subprocess.run([sys.executable, SCRIPT, "missing"], capture_output=True, text=True, timeout=60)
    needed = {line.split()[0] for line in done.stdout.splitlines() if "MISSING" in line and line.endswith(" needed")}
    assert needed <= {"triton"}, done.stdout  # which PyTorch for CPUs does without


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only", "memory", "stpe"], "there is no part 'stpe'; there are attention, step 0.3B"),
        (["--wheels", "/nowhere"], "there is no wheel in /nowhere; `missing` prints"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(options, says):
    done = subprocess.run([sys.executable, SCRIPT, "run", *options], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_every_stage_runs_in_one_process_without_ray(tmp_path):
    checks = run_tiny(tmp_path / "lines.json", "smoke")["smoke"]
    assert checks["smoke libraries"]["value"] == 0.0, checks["smoke libraries"]
    stages = {"corpus", "tokenizer", "tokens", "model", "scores", "export", "report"}
    assert {f"smoke {stage}" for stage in stages} <= checks.keys()
    assert checks["smoke loss over first"]["passed"] is True


@pytest.mark.long
def test_every_part_runs_at_a_tiny_size(tmp_path):
    found = run_tiny(tmp_path / "lines.json")
    assert len(found) == 12
    assert all(checks for checks in found.values())
    assert {"passes 0.3B 1 sequences", "passes 0.3B 8 sequences"} <= found["passes 0.3B"].keys()
