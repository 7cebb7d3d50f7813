"""One attempt of a run: the process that does the work, started by the run's driver (drive.py)."""

import ctypes
import os
import signal
from pathlib import Path

from rich.console import Console

from cluster.host.files import write_text
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.prepare import prepare, run_prepared
from pipeline.runs.directory import RunDirectory
from pipeline.runs.records import StartRecord

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def make_attempt(
    directory: RunDirectory, start: StartRecord, machines: ClusterConfig, out: Console, *, take_over: bool
) -> None:
    """Run the recipe that was submitted; go on where the attempt before ended. Raises UserError as `concord run`."""
    ready = prepare(write_recipe(directory), (), machines.storage)
    check_artifacts(start, {step.name: step.artifact for step in ready.plan.steps.values()})
    run_prepared(
        ready,
        machines,
        start.cluster_name,
        out,
        failures=directory.path / "node-failures.jsonl",
        avoid=frozenset(start.avoid),
        take_over=take_over,
    )


def write_recipe(directory: RunDirectory) -> Path:
    """The recipe that was submitted, as a file on this machine."""
    run = directory.run()
    assert run is not None
    path = directory.path / "recipe.yaml"
    write_text(path, run.model_dump_json(include={"recipe"})[len('{"recipe":') : -1])  # JSON is YAML
    return path


def check_artifacts(start: StartRecord, planned: dict[str, str]) -> None:
    """Raise UserError if the recipe would make something else by now than when it was started."""
    if changed := [name for name, artifact in start.artifacts.items() if planned.get(name) != artifact]:
        raise UserError(
            f"step {changed[0]!r} would make {planned.get(changed[0])} now, and not {start.artifacts[changed[0]]} as "
            "when the run was started, because its sources or this code have changed since; put them back, or submit "
            "the recipe again under another --id"
        )


def end_with_parent() -> None:
    """Have this process asked to stop when its parent dies, however it dies."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:  # it died before that
        os.kill(os.getpid(), signal.SIGTERM)
