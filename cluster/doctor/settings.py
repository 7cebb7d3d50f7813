"""Settings of the environment that services want: tokens, and what is offline."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cluster.doctor.report import Finding, fail, ok, warn
from configs.cluster import WandbConfig

_TRUE = ("1", "on", "yes", "true")


def hub_finding(environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether the Hugging Face hub is used, and as whom."""
    if environment.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        return ok("Hugging Face hub", "HF_HUB_OFFLINE is set: only what is in the cache is used")
    home = Path(environment.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    if environment.get("HF_TOKEN") or (home / "token").exists():
        return ok("Hugging Face hub", "online, with a token")
    return ok("Hugging Face hub", "online, without a token: public repositories only (for others: hf auth login)")


def wandb_finding(wanted: WandbConfig | None, environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether metrics go to Weights & Biases as the cluster file says."""
    if wanted is None:
        return ok("Weights & Biases", "not asked for")
    key = bool(environment.get("WANDB_API_KEY")) or _in_netrc(environment)
    mode = environment.get("WANDB_MODE", "online")
    if wanted.mode == "online" and not key:
        fix = "wandb login, or set WANDB_API_KEY, or wandb: {mode: offline} in the cluster file"
        return fail("Weights & Biases", "the cluster file says `mode: online`, and there is no API key", fix=fix)
    if wanted.mode == "online" and mode != "online":
        fix = "unset WANDB_MODE, or set wandb: {mode: offline} in the cluster file"
        return warn("Weights & Biases", f"the cluster file says `mode: online`, WANDB_MODE says {mode}", fix=fix)
    if wanted.mode == "offline" or not key:
        return ok("Weights & Biases", "offline: metrics are kept on disk")
    return ok("Weights & Biases", f"{mode}, with an API key")


def token_findings(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Whether Ray's token is there where it is said to be, and nobody else can read it."""
    wanted = environment.get("RAY_AUTH_MODE", "").lower() == "token"
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if environment.get("RAY_AUTH_TOKEN"):
        return [ok("Ray token", "RAY_AUTH_TOKEN is set")]
    if not path.is_file():
        seen = f"{path}: there is no token" + (", though RAY_AUTH_MODE=token" if wanted else "")
        fix = "ray get-auth-token --generate, or set RAY_AUTH_TOKEN_PATH to the cluster's token"
        return [fail("Ray token", seen, fix=fix) if wanted or named else ok("Ray token", "none set")]
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return [warn("Ray token", f"{path} can be read by other users", fix=f"chmod 600 {path}")]
    if not wanted:
        seen = f"{path} is there, but RAY_AUTH_MODE is not set to token"
        return [warn("Ray token", seen, fix="export RAY_AUTH_MODE=token")] if named else [ok("Ray token", seen)]
    return [ok("Ray token", f"{path}, which only its owner can read")]


def _in_netrc(environment: Mapping[str, str]) -> bool:
    file = Path(environment.get("NETRC", Path.home() / ".netrc"))
    return file.is_file() and "api.wandb.ai" in file.read_text(encoding="utf-8", errors="replace")
