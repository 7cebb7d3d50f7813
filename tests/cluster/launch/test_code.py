import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster.launch.code import PACKAGES, stage_code
from configs.base import ConfigError
from tests.cluster.launch.submissions import ROOT


def test_what_is_sent_is_the_packages_and_runs_by_itself(tmp_path):
    stage_code(ROOT, tmp_path, max_mib=5)
    sent = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert sent == {*PACKAGES, "constraints.txt", "pyproject.toml"}
    assert not [path for path in tmp_path.rglob("*") if "__pycache__" in path.parts or path.suffix == ".pyc"]
    program = (
        "import pipeline.cli.app as app, configs.load; print(app.__file__, (configs.load.SHIPPED / 'recipes').exists())"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(tmp_path / "pipeline" / "cli" / "app.py"), "True"]


def test_the_script_of_slurm_is_sent_with_the_code_that_renders_it(tmp_path):
    stage_code(ROOT, tmp_path / "sent", max_mib=5)
    program = """
import sys
from pathlib import Path
from cluster.launch.slurm import Slurm
from configs.cluster import ClusterConfig
from configs.launchers import SlurmLauncher
from cluster.launch.launcher import Submission
here = Path(sys.argv[1])
sent = Submission("smoke", "1a2b", 1, (), here, here, here / "log.txt", {}, ClusterConfig(), 30)
print(Slurm(SlurmLauncher(kind="slurm")).render(sent))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=tmp_path / "sent",
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("#!/bin/bash\n#SBATCH") and 'exit "$code"' in run.stdout


def test_an_installed_package_has_the_files_that_are_not_python():
    """As pyproject.toml tells setuptools, which leaves them out unless it is told."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                patterns = data.get(".".join(path.parent.relative_to(ROOT).parts), [])
                assert any(path.match(pattern) for pattern in patterns), f"no package-data names {path}"


def toy(directory: Path) -> Path:
    """Packages with nothing in them but one file of 2 MiB and one of 1 MiB."""
    for package in PACKAGES:
        (directory / package).mkdir(parents=True)
        (directory / package / "__init__.py").touch()
    (directory / "data_prep" / "corpus.bin").write_bytes(bytes(2 * 2**20))
    (directory / "eval" / "items.bin").write_bytes(bytes(2**20))
    return directory


def test_too_much_code_is_refused_and_the_largest_files_are_named(tmp_path):
    with pytest.raises(ConfigError) as error:
        stage_code(toy(tmp_path / "code"), tmp_path / "sent", max_mib=2)
    assert "data_prep/corpus.bin (2.0 MiB), eval/items.bin (1.0 MiB)" in str(error.value)
    assert "max_code_mib" in str(error.value) and not (tmp_path / "sent").exists()


def test_caches_and_hidden_files_count_for_nothing(tmp_path):
    code = toy(tmp_path / "code")
    (code / "eval" / "__pycache__").mkdir()
    (code / "eval" / "__pycache__" / "big.pyc").write_bytes(bytes(2**20))
    (code / "eval" / ".cache").write_bytes(bytes(2**20))
    stage_code(code, tmp_path / "sent", max_mib=3)
    assert sorted(path.name for path in (tmp_path / "sent" / "eval").iterdir()) == ["__init__.py", "items.bin"]


def test_a_directory_that_lacks_a_package_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no package 'configs'"):
        stage_code(tmp_path, tmp_path / "sent", max_mib=1)
