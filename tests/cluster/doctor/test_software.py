"""Python, packages, compiler, settings; and whether nodes agree."""

import shutil

import pytest

from cluster.doctor import software
from cluster.doctor.software import clock_finding, hub_finding, token_findings, version_finding, wandb_finding
from configs.cluster import WandbConfig
from tests.cluster.doctor.fakes import only_programs

OURS = {"python": "3.11.7", "code": "abc", "ray": "2.60.0", "wandb": "0.31"}


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
    rich, pydantic = software.installed_version("rich"), software.installed_version("pydantic")
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


@pytest.mark.parametrize(
    ("mode", "environment", "level", "words"),
    [
        ("auto", {}, "OK", "offline"),
        ("auto", {"WANDB_API_KEY": "x"}, "OK", "online, with an API key"),
        ("online", {}, "FAIL", "no API key"),
        ("online", {"WANDB_API_KEY": "x"}, "OK", "online"),
        ("online", {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "WARN", "disabled"),
        ("offline", {"WANDB_API_KEY": "x"}, "OK", "offline"),
    ],
)
def test_weights_and_biases_goes_by_the_cluster_file_and_the_key(tmp_path, mode, environment, level, words):
    finding = wandb_finding(WandbConfig(mode=mode), {"NETRC": str(tmp_path / "none")} | environment)
    assert finding.level == level
    assert words in finding.seen


def test_a_login_in_netrc_is_a_key(tmp_path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n", encoding="utf-8")
    assert wandb_finding(WandbConfig(mode="online"), {"NETRC": str(tmp_path / "netrc")}).level == "OK"


def test_the_hub_is_offline_when_told_so(tmp_path):
    home = {"HF_HOME": str(tmp_path)}
    assert "cache" in hub_finding(home | {"HF_HUB_OFFLINE": "1"}).seen
    assert "without a token" in hub_finding(home | {"HF_HUB_OFFLINE": "0"}).seen
    assert "with a token" in hub_finding(home | {"HF_TOKEN": "x"}).seen


def test_a_token_that_others_can_read_or_that_is_not_there_is_told(tmp_path):
    path = tmp_path / "token"
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert [finding.level for finding in token_findings(environment)] == ["FAIL"]
    path.write_text("secret", encoding="utf-8")
    path.chmod(0o644)
    (finding,) = token_findings(environment)
    assert (finding.level, finding.fix) == ("WARN", f"chmod 600 {path}")
    path.chmod(0o600)
    assert [finding.level for finding in token_findings(environment)] == ["OK"]
    (finding,) = token_findings({"RAY_AUTH_TOKEN_PATH": str(path)})
    assert "RAY_AUTH_MODE=token" in finding.fix


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({}, "OK", "2 packages and code abc"),
        ({"ray": "2.59.0"}, "FAIL", "ray 2.59.0 (here 2.60.0)"),
        ({"code": "def"}, "FAIL", "code def (here abc)"),
        ({"wandb": "0.30"}, "WARN", "wandb 0.30 (here 0.31)"),
        ({"torch": "2.13"}, "FAIL", "torch 2.13 (here missing)"),
    ],
)
def test_a_node_must_have_the_versions_that_decide(changed, level, words):
    finding = version_finding(OURS, OURS | changed)
    assert finding.level == level
    assert words in finding.seen


@pytest.mark.parametrize(
    ("skew", "within", "level"), [(0.1, 0.01, "OK"), (-2, 0.01, "WARN"), (2, 1.5, "OK"), (-100, 1, "FAIL")]
)
def test_a_clock_counts_as_wrong_only_as_far_as_the_round_trip_lets_one_know(skew, within, level):
    assert clock_finding(skew, within).level == level
