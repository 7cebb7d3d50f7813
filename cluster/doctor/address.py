"""Whether a Ray answers at its address, with the token that is set here and at our version, and only so."""

import json
import os
import sys
from collections.abc import Mapping

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.doctor.software import ROOT, installed
from cluster.host.network import answers, is_loopback
from cluster.host.programs import ask
from configs.base import ConfigError
from configs.cluster import ClusterConfig

CHECK = "Ray address"

_SECONDS = 20.0
"""Of which Ray takes one to load."""

_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}

_CLOSE_IT = "start it with RAY_AUTH_MODE=token, or say `allow_no_token: true` in the cluster file"


def refuse_open_ray(machines: ClusterConfig) -> None:
    """Raise ConfigError if the Ray at `ray_address` is on another machine and wants no token, and the cluster file does
    not allow it. What does not answer is left to those who join it. Takes a second or two, or none where nothing is to
    be asked."""
    address = machines.ray_address
    if machines.executor != "ray" or address == "local" or machines.allow_no_token or _is_here(address):
        return
    if answers(address) and _said(address, _NO_TOKEN)["answer"] == "yes":
        raise ConfigError(f"{_open(address)}; {_CLOSE_IT}")


def address_finding(address: str, *, allow_no_token: bool = False) -> Finding:
    """Whether a Ray answers at `host:port`, takes our token, has our version, and is not open to anybody."""
    if not answers(address):
        fix = (
            "check `ray_address` (host:port, as `ray start --head` prints it), that the head node is up, and firewalls"
        )
        return fail(CHECK, f"nothing answers at {address}", fix=fix)
    said = {"answer": "refused"} if _is_here(address) else _said(address, _NO_TOKEN)
    is_open = said["answer"] == "yes"
    if is_open and not allow_no_token:
        return fail(CHECK, _open(address), fix=_CLOSE_IT)
    finding = _by_answer(address, _said(address) if said["answer"] == "refused" else said)
    if is_open and finding.level == "OK":
        return warn(CHECK, _open(address), fix="start it with RAY_AUTH_MODE=token")
    return finding


def _by_answer(address: str, said: Mapping[str, str]) -> Finding:
    match said["answer"]:
        case "refused":
            fix = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's token"
            return fail(CHECK, f"the Ray at {address} does not take this token", fix=fix)
        case "no Ray":
            fix = "give the port of the head node's GCS (6379 unless --port said otherwise), not that of the dashboard"
            return fail(CHECK, f"what answers at {address} is no Ray, or a hanging one", fix=fix)
    seen = f"{address} answers: Ray {said['ray']}, Python {said['python']}"
    if said["ray"] == installed("ray"):
        return ok(CHECK, seen)
    fix = "pip install --constraint constraints.txt ray, on every node and here, so that all have one version"
    return fail(CHECK, f"{seen}, but here is Ray {installed('ray')}", fix=fix)


def _said(address: str, authentication: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the Ray says to a process with this authentication, or with ours: Ray reads it once in a process."""
    environment = dict(os.environ)
    if authentication is not None:
        environment = {n: v for n, v in environment.items() if not n.startswith("RAY_AUTH_")} | dict(authentication)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    question = [sys.executable, "-m", "cluster.doctor.ray_versions", address]
    answer = ask(question, seconds=_SECONDS, environment=environment)
    said: dict[str, str] = json.loads(answer.text) if answer.fine else {"answer": "no Ray"}
    return said


def _is_here(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])


def _open(address: str) -> str:
    return f"the Ray at {address} wants no token, so whoever reaches it can run any code there"
