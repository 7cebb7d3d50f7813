"""What a launcher does: start the driver of a run where a cluster file says, and tell what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from configs.cluster import ClusterConfig

DriverState = Literal["waiting", "running", "ended", "unknown"]


@dataclass(frozen=True)
class Submission:
    """One start of a run's driver."""

    run: str
    """The run's id: safe in a path, a URL and a shell."""

    key: str
    """Given to the run at random when it was submitted: two stores may have runs of one id."""

    number: int
    """1 for the first start of the run's driver, and so on."""

    command: tuple[str, ...]
    """What the driver is started with after the name of a Python interpreter: `-m pipeline.cli drive ...`. A launcher
    that knows the address of a Ray appends `--ray-address ADDRESS`."""

    code: Path
    """Directory that holds Concord's packages; it has to be on PYTHONPATH, or sent along."""

    directory: Path
    """Working directory of the driver: where the run was submitted from."""

    log: Path
    """File to which what the driver prints is appended. It is in the store, which the cluster shares."""

    environment: Mapping[str, str]
    """Variables for the driver, secrets among them: they must stand in no file and on no command line."""

    cluster: ClusterConfig
    grace_seconds: float
    """What the driver is given to save a checkpoint before it is killed."""

    @property
    def name(self) -> str:
        """Name of this start: the same for the same run and number, whoever computes it."""
        return f"{self.run}-{self.key}-{self.number}"


@dataclass(frozen=True)
class DriverStatus:
    """What a launcher knows of a driver that it was to start."""

    state: DriverState
    """`unknown`: the launcher knows of no such driver, or does not answer."""

    detail: str = ""
    """More of it in the launcher's own words: `PENDING (Resources)`, `exit code 1`."""


class Launcher(Protocol):
    """One way to start a driver; a class in a file of its own, and a line in LAUNCHERS."""

    def check(self) -> None:
        """Raise StartUpError or ConfigError if nothing can be submitted: no such command, no answer, no token."""
        ...

    def render(self, submission: Submission) -> str:
        """Return what would be submitted, for a person to read: a command, a script, a manifest.

        It holds no secret, and nothing is started.
        """
        ...

    def submit(self, submission: Submission) -> str:
        """Start the driver and return a handle to it at once. The same submission again gives the same driver."""
        ...

    def status(self, handle: str) -> DriverStatus:
        """Return what became of a driver."""
        ...

    def stop(self, handle: str) -> None:
        """Tell a driver to save and end, as SIGTERM does. One that has ended is left alone."""
        ...

    def kill(self, handle: str) -> None:
        """End a driver at once."""
        ...

    def last_output(self, handle: str) -> str:
        """Return the end of a driver's output, as the launcher kept it: the driver may have ended before it had a log.

        It is at most NUM_LAST_LINES lines long (`cluster/launch/shared.py`).
        """
        ...


LAUNCHERS = {
    "local": "cluster.launch.local.LocalProcess",
    "ray": "cluster.launch.ray_jobs.RayJobs",
    "slurm": "cluster.launch.slurm.Slurm",
    "kubernetes": "cluster.launch.kubernetes.Kubernetes",
}
"""Module and class by the `kind` in a cluster file. They are imported when used: Ray's takes a second."""


def launcher_for(cluster: ClusterConfig) -> Launcher:
    """Return the launcher that a cluster file asks for."""
    module, _, name = LAUNCHERS[cluster.launcher.kind].rpartition(".")
    settings = {"allow_no_token": cluster.allow_no_token} if cluster.launcher.kind == "ray" else {}
    made: Launcher = getattr(import_module(module), name)(cluster.launcher, **settings)
    return made
