"""Submissions for the tests of launchers."""

from pathlib import Path

from cluster.launch.launcher import Submission
from configs.cluster import ClusterConfig

ROOT = Path(__file__).parents[3]


def submission(directory: Path, *command: str, number: int = 1, **environment: str) -> Submission:
    """One start of the run `smoke`, with all its files below a directory."""
    (directory / "here").mkdir(parents=True, exist_ok=True)
    return Submission(
        run="smoke",
        key="1a2b",
        number=number,
        command=command,
        code=ROOT,
        directory=directory / "here",
        log=directory / "run" / "log.txt",
        environment=environment,
        cluster=ClusterConfig(),
        grace_seconds=30,
    )
