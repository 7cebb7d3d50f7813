"""A run in a store, with attempts that are small programs instead of `concord attempt`."""

import sys
from pathlib import Path
from typing import ClassVar

from cluster.launch.launcher import DriverStatus, Submission
from cluster.leases.fence import Fence
from cluster.leases.lease import lease
from configs.cluster import ClusterConfig
from pipeline.runs.directory import AttemptRecord, RunDirectory, RunRecord, StartRecord, lease_name, now
from pipeline.runs.driver import Driver

QUICK = {"backoff_seconds": 0}


def toy_directory(store: Path, run_id: str = "toy", **recipe: object) -> RunDirectory:
    directory = RunDirectory(str(store), run_id, work_dir=".concord")
    record = RunRecord(
        id=run_id,
        key="k",
        recipe={"name": "toy", "steps": {}, **recipe},
        recipe_path="toy.yaml",
        overrides=(),
        directory=str(store),
        submitted=now(),
        user="me",
        host="here",
    )
    assert directory.create(record)
    return directory


def toy_start(directory: RunDirectory, number: int = 1, **changes: object) -> StartRecord:
    start = StartRecord(
        number=number,
        cluster_name="local",
        cluster=ClusterConfig().model_dump(mode="json"),
        artifacts={"model": "train-0123456789ab"},
        code="abc",
        packages={"torch": "1"},
        avoid=(),
        take_over=False,
        time=now(),
    ).model_copy(update=changes)
    assert directory.add_start(start)
    return start


def toy_attempt(directory: RunDirectory, number: int = 1, **changes: object) -> AttemptRecord:
    record = AttemptRecord(number=number, start=1, host="here", pid=1, began=now(), code="abc", packages={}).model_copy(
        update=changes
    )
    assert directory.add_attempt(record)
    return record


class ToyDriver(Driver):
    """A driver whose attempts run `programs`, one after another, with `store` as their argument."""

    programs: list[str]

    def _command(self, number: int) -> list[str]:
        return [sys.executable, "-c", self.programs.pop(0), str(self.directory.home)]


def toy_drive(directory: RunDirectory, *programs: str, **cluster: object) -> int:
    """The exit code of a driver that makes these attempts; one too many is an error."""
    machines = ClusterConfig.model_validate({"retries": QUICK} | cluster)
    start = directory.starts()[-1] if directory.starts() else toy_start(directory)
    with lease(directory.home, lease_name(directory.id), what=f"run {directory.id!r}") as fence:
        return toy_driver(directory, start, machines, fence, *programs).run()


def toy_driver(
    directory: RunDirectory, start: StartRecord, machines: ClusterConfig, fence: Fence, *programs: str
) -> ToyDriver:
    driver = ToyDriver(directory, start, machines, fence, ray_address=None)
    driver.programs = list(programs)
    return driver


class ToyLauncher:
    """Starts nothing, and says what it is told to say."""

    submissions: ClassVar[list[Submission]] = []
    killed: ClassVar[list[str]] = []
    seen: ClassVar[DriverStatus] = DriverStatus("running", "process 7")

    def __init__(self, config: object) -> None:
        pass

    def check(self) -> None:
        pass

    def render(self, submission: Submission) -> str:
        return f"would start {submission.name}"

    def submit(self, submission: Submission) -> str:
        if submission.name not in [known.name for known in self.submissions]:
            self.submissions.append(submission)
        return f"handle of {submission.name}"

    def status(self, handle: str) -> DriverStatus:
        return ToyLauncher.seen

    def stop(self, handle: str) -> None:
        raise AssertionError("the driver is asked by way of its directory")

    def kill(self, handle: str) -> None:
        self.killed.append(handle)

    def last_output(self, handle: str) -> str:
        return "first line\nlast line"
