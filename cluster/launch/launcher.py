"""What a launcher does: start the driver of a run where a cluster file says, and say what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from configs.cluster import ClusterConfig

State = Literal["waiting", "running", "ended", "unknown"]


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
    """File for what the driver prints, appended to. In the store, which the cluster shares."""

    environment: Mapping[str, str]
    """Variables for the driver, secrets among them: they must stand in no file and on no command line."""

    cluster: ClusterConfig
    grace_seconds: float
    """What the driver is given to save a checkpoint before it is killed."""

    @property
    def name(self) -> str:
        """Name of this start: the same for the same run and number, whoever asks."""
        return f"{self.run}-{self.key}-{self.number}"


@dataclass(frozen=True)
class Whereabouts:
    """What a launcher knows of a driver that it was to start."""

    state: State
    """`unknown`: the launcher knows of no such driver, or does not answer."""

    detail: str = ""
    """In the launcher's own words: `PENDING (Resources)`, `exit code 1`."""


class Launcher(Protocol):
    """One way to start a driver; a class in a file of its own, and a line in `table.py`."""

    def check(self) -> None:
        """Raise StartUpError or ConfigError if nothing can be submitted: no such command, no answer, no token."""
        ...

    def render(self, submission: Submission) -> str:
        """What would be submitted, for a person: a command, a script, a manifest. Holds no secret; starts nothing."""
        ...

    def submit(self, submission: Submission) -> str:
        """Start the driver and return a handle to it at once. The same submission again gives the same driver."""
        ...

    def look(self, handle: str) -> Whereabouts:
        """What became of a driver."""
        ...

    def stop(self, handle: str) -> None:
        """Ask a driver to save and end, as SIGTERM does. One that has ended is left alone."""
        ...

    def kill(self, handle: str) -> None:
        """End a driver at once."""
        ...

    def last_words(self, handle: str) -> str:
        """What the launcher has kept of a driver's output: for one that ended before it could write its log."""
        ...
