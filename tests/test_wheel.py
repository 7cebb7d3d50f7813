"""The wheel holds all that the packages need at run time: an editable install would hide what is missing."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "configs", "data_prep", "eval", "pipeline", "training")

USE = """
import pathlib, sys
import cluster, configs, data_prep, eval, pipeline, training
from configs.load import SHIPPED
here = pathlib.Path(sys.argv[1])
for package in (cluster, configs, data_prep, eval, pipeline, training):
    assert here in pathlib.Path(package.__file__).parents, package.__file__
assert SHIPPED.is_relative_to(here)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the wheel installs, and nothing of the repository."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={directory}", "."]
    source = directory / "source"  # a build leaves files behind
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(build, cwd=source, check=True, timeout=200)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def test_a_wheel_has_every_file_of_the_packages(installed: Path) -> None:
    wanted = {
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert {path for path in wanted if not (installed / path).is_file()} == set()


def test_what_a_wheel_installs_works_without_the_repository(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    python = [sys.executable, "-P"]
    subprocess.run([*python, "-c", USE, str(installed)], cwd=tmp_path, env=env, check=True, timeout=100)
    command = [*python, "-m", "pipeline.cli"]
    plan = [*command, "plan", "smoke", "--cluster", "local"]
    shown = subprocess.run(plan, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert shown.returncode == 0 and "11 to make" in shown.stdout, shown.stderr
    submit = [*command, "submit", "smoke", "--cluster", "slurm", "--dry-run", "--no-check"]
    script = subprocess.run(submit, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert script.returncode == 0 and "scontrol requeue" in script.stdout, script.stderr
