"""Whether a Ray answers at its address, with the token that is set here and at our version."""

import json
import os
import sys

from cluster.doctor.commands import ask
from cluster.doctor.report import Finding, fail, ok
from cluster.doctor.software import ROOT, installed
from cluster.network import answers

CHECK = "Ray address"

_SECONDS = 20.0
"""Of which Ray takes one to load."""


def address_finding(address: str) -> Finding:
    """Whether a Ray answers at `host:port`, takes our token, and has our version."""
    if not answers(address):
        fix = (
            "check `ray_address` (host:port, as `ray start --head` prints it), that the head node is up, and firewalls"
        )
        return fail(CHECK, f"nothing answers at {address}", fix=fix)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    question = [sys.executable, "-m", "cluster.doctor.ray_versions", address]
    answer = ask(question, seconds=_SECONDS, environment=os.environ | {"PYTHONPATH": path})
    said = json.loads(answer.text) if answer.fine else {"answer": "no Ray"}
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
