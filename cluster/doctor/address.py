"""Whether a Ray answers at its address, takes the token that is set here, has our version, and is not open to all."""

import json
import os
import sys
from collections.abc import Mapping

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.doctor.software import installed_version
from cluster.host.network import answers, is_loopback
from cluster.host.programs import run_program
from cluster.launch.code import ROOT
from configs.base import ConfigError
from configs.cluster import ClusterConfig

CHECK = "Ray address"

_QUERY_SECONDS = 20.0
"""Time limit of a query, of which Ray takes one second to load."""

_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}

_OPEN_FIX = "start it with RAY_AUTH_MODE=token, or say `allow_no_token: true` in the cluster file"


def refuse_open_ray(machines: ClusterConfig) -> None:
    """Raise ConfigError if the Ray at `ray_address` is on another machine, wants no token, and is not allowed to.

    The cluster file allows it with `allow_no_token`. An address that does not answer is left to those who join it.
    Takes a second or two, or none where there is nothing to query.
    """
    address = machines.ray_address
    if machines.executor != "ray" or address == "local" or machines.allow_no_token or _is_this_machine(address):
        return
    if answers(address) and _query_ray(address, _NO_TOKEN)["answer"] == "yes":
        raise ConfigError(f"{_describe_open(address)}; {_OPEN_FIX}")


def address_finding(address: str, *, allow_no_token: bool = False) -> Finding:
    """Check that a Ray answers at `host:port`, takes our token, has our version, and is not open to anybody."""
    if not answers(address):
        fix = (
            "check `ray_address` (host:port, as `ray start --head` prints it), that the head node is up, and firewalls"
        )
        return fail(CHECK, f"nothing answers at {address}", fix=fix)
    without_token = {"answer": "refused"} if _is_this_machine(address) else _query_ray(address, _NO_TOKEN)
    is_open = without_token["answer"] == "yes"
    if is_open and not allow_no_token:
        return fail(CHECK, _describe_open(address), fix=_OPEN_FIX)
    refused = without_token["answer"] == "refused"
    finding = _finding_by_answer(address, _query_ray(address) if refused else without_token)
    if is_open and finding.level == "OK":
        return warn(CHECK, _describe_open(address), fix="start it with RAY_AUTH_MODE=token")
    return finding


def _finding_by_answer(address: str, answer: Mapping[str, str]) -> Finding:
    match answer["answer"]:
        case "refused":
            fix = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's token"
            return fail(CHECK, f"the Ray at {address} does not take this token", fix=fix)
        case "no Ray":
            fix = "give the port of the head node's GCS (6379 unless --port said otherwise), not that of the dashboard"
            return fail(CHECK, f"what answers at {address} is no Ray, or a hanging one", fix=fix)
    seen = f"{address} answers: Ray {answer['ray']}, Python {answer['python']}"
    if answer["ray"] == installed_version("ray"):
        return ok(CHECK, seen)
    fix = "pip install --constraint constraints.txt ray, on every node and here, so that all have one version"
    return fail(CHECK, f"{seen}, but here is Ray {installed_version('ray')}", fix=fix)


def _query_ray(address: str, authentication: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what `cluster/doctor/ray_versions.py` says of the Ray, run with this authentication, or with ours.

    It is a process of its own, since Ray reads its authentication once in a process.
    """
    environment = dict(os.environ)
    if authentication is not None:
        environment = {n: v for n, v in environment.items() if not n.startswith("RAY_AUTH_")} | dict(authentication)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "cluster.doctor.ray_versions", address]
    result = run_program(command, timeout_seconds=_QUERY_SECONDS, environment=environment)
    answer: dict[str, str] = json.loads(result.output) if result.ok else {"answer": "no Ray"}
    return answer


def _is_this_machine(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])


def _describe_open(address: str) -> str:
    return f"the Ray at {address} wants no token, so whoever reaches it can run any code there"
