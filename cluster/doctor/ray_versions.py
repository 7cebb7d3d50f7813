"""Versions of the Ray at an address, without joining it: `python -m cluster.doctor.ray_versions HOST:PORT`.

It runs in a process of its own, as Ray gives up on what is no Ray only after 40 s, and reports it on standard error.
"""

import json
import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub lacks it
from ray.exceptions import AuthenticationError, RayError

SECONDS = 5.0


class Versions(BaseModel):
    """What a Ray says of itself."""

    model_config = ConfigDict(frozen=True)

    answer: Literal["yes", "refused", "no Ray"]
    """`refused`: it wants another token, or one at all."""

    ray: str = ""
    python: str = ""


def query_versions(address: str) -> Versions:
    """Ask the GCS (Ray's global control store) at `host:port` for its versions. Never raises for want of an answer."""
    try:
        client = GcsClient(address=address)
        text = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=SECONDS)
    except AuthenticationError:
        return Versions(answer="refused")
    except (RayError, RuntimeError, ValueError):
        return Versions(answer="no Ray")
    if text is None:
        return Versions(answer="no Ray")
    metadata = json.loads(text)
    return Versions(answer="yes", ray=metadata["ray_version"], python=metadata["python_version"])


if __name__ == "__main__":
    print(query_versions(sys.argv[1]).model_dump_json())
