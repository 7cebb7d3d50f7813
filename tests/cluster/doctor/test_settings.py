"""Tokens and offline settings."""

import pytest

from cluster.doctor.settings import hub_finding, token_findings, wandb_finding
from configs.cluster import WandbConfig


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
