"""The quick part of the doctor, which comes before a run is submitted."""

from pathlib import Path

from cluster.doctor.examine import examine
from cluster.doctor.report import Report
from configs.cluster import ClusterConfig


def quick_check(machines: ClusterConfig, store: Path) -> Report:
    """Examine the nodes that would be used; those of `failing_hosts` may be left out.

    Takes a few seconds more than joining the Ray does.
    """
    return examine(machines, store=store, quick=True)
