"""Python, packages and compiler."""

import shutil

import pytest

from cluster.doctor import software
from tests.cluster.doctor.fakes import only_programs


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make another directory that of Concord's code, with this pyproject.toml."""

    def make(text: str, constraints: str | None = None) -> None:
        (tmp_path / "pyproject.toml").write_text(f"[project]\n{text}\n", encoding="utf-8")
        if constraints is not None:
            (tmp_path / "constraints.txt").write_text(constraints, encoding="utf-8")
        monkeypatch.setattr(software, "ROOT", tmp_path)

    return make


def test_this_python_is_one_that_concord_runs_on():
    assert software.python_finding().level == "OK"


def test_another_python_fails(project):
    project('requires-python = ">=4"')
    finding = software.python_finding()
    assert finding.level == "FAIL"
    assert finding.fix


def test_packages_out_of_bounds_or_missing_fail(project):
    project('dependencies = ["pydantic>=1", "rich<1", "no-such-package>=3", "other>=1; python_version < \'3\'"]')
    (finding,) = software.package_findings()
    assert finding.level == "FAIL"
    assert "rich" in finding.seen
    assert "no-such-package is missing" in finding.seen
    assert "pydantic" not in finding.seen
    assert "other" not in finding.seen


def test_packages_other_than_the_tested_ones_are_told(project):
    rich, pydantic = software.installed("rich"), software.installed("pydantic")
    project('dependencies = ["rich"]', f"rich==1.0\npydantic=={pydantic}\nnot-installed==1\n")
    packages, tested = software.package_findings()
    assert packages.level == "OK"
    assert tested.level == "WARN"
    assert tested.seen == f"rich {rich} (tested 1.0)"


def test_a_compiler_is_needed_only_where_a_pool_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.delenv("CXX", raising=False)
    only_programs(monkeypatch, tmp_path, {})
    assert software.compiler_finding(needed=False).level == "OK"
    assert software.compiler_finding(needed=True).level == "FAIL"
    only_programs(monkeypatch, tmp_path, {"c++": "", "ninja": ""})
    assert software.compiler_finding(needed=True).level == "OK"


def test_the_digest_of_the_code_changes_with_the_code(tmp_path, monkeypatch):
    shutil.copytree(software.ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(software, "ROOT", tmp_path)
    before = software.code_digest()
    assert software.code_digest() == before
    (tmp_path / "configs" / "base.py").write_text("changed", encoding="utf-8")
    assert software.code_digest() != before
