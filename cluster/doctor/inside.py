"""The doctor inside a job of a Ray: `python -m cluster.doctor.inside EXAMINATION`, an Examination in JSON."""

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.doctor.nodes import examine_nodes
from configs.cluster import ClusterConfig

REPORT_PREFIX = "concord-doctor-report: "
"""Begins the line of output that is the report."""


class Examination(BaseModel):
    """What is to be examined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machines: ClusterConfig
    store: Path
    quick: bool


def main() -> None:
    """Examine the nodes of the Ray that this job runs on, and print the report in one line."""
    request = Examination.model_validate_json(sys.argv[1])
    address = os.environ["RAY_ADDRESS"]  # Ray sets it for the drivers of jobs
    report = examine_nodes(request.machines, address=address, store=request.store, quick=request.quick)
    print(f"{REPORT_PREFIX}{report.model_dump_json()}", flush=True)


if __name__ == "__main__":
    main()
