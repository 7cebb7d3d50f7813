"""How a run stands, and what it makes and has made so far.

All of it comes from the run's records, its driver's lease and, where these say nothing, its launcher. Nothing is
planned again: the sources need not be there, nor be what they were.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from cluster.launch.launcher import DriverStatus, Launcher, launcher_for
from cluster.leases.lease import store_holder
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.run import RunConfig
from pipeline.graph.plan import PlannedStep
from pipeline.graph.wiring import all_inputs, unused_steps
from pipeline.runs.directory import AttemptRecord, RunDirectory, StartRecord, lease_name
from pipeline.runs.retry import Outcome
from pipeline.store.artifact import RECORD
from training.manifests import counted
from training.records import CHECKPOINT_FILE, CHECKPOINTS, list_checkpoints

Word = Literal["not started", "waiting", "starting", "running", "finished", "stopped", "failed", "lost", "unknown"]
"""`unknown`: the driver has not begun, and the launcher, which may yet start it, does not tell."""

LIVE: tuple[Word, ...] = ("waiting", "starting", "running")

_STARTED_AGAIN: tuple[Outcome | None, ...] = (None, "lost", "preempted", "infrastructure", "start_up")
"""Ends of an attempt after which a scheduler may have started the driver again; None: its driver died with it."""


@dataclass(frozen=True)
class RunStatus:
    """How a run stands."""

    word: Word
    detail: str
    """A sentence that says more; for a run that has ended, why it did."""

    @property
    def is_live(self) -> bool:
        """Whether a driver works on the run, or is about to."""
        return self.word in LIVE


LAUNCHER_SECONDS = 30.0
"""How old a launcher's answer may be for what asks again and again: Slurm's controller serves a whole site."""

_answers: dict[str, tuple[float, DriverStatus]] = {}
"""The last answers of launchers, by handle: when, by the monotonic clock, and what."""


def read_status(directory: RunDirectory, *, launcher_seconds: float = 0.0) -> RunStatus:
    """Return how the run stands now.

    `launcher_seconds` is how old the answer of its launcher may be, where only that tells: LAUNCHER_SECONDS for what
    looks again and again. A process of this machine (launcher `local`) costs nothing to ask, and is asked each time.
    """
    # The lease first: a driver writes down how its attempt ended before it lets go.
    who = store_holder(directory.remote, directory.home, lease_name(directory.id))
    starts, attempts = directory.starts(), directory.attempts()
    last = attempts[-1] if attempts else None
    if last is not None and last.outcome == "finished" and _missing_output(directory) is None:
        return RunStatus("finished", f"after {counted(len(attempts), 'attempt')}")
    if who is not None:
        return RunStatus("running", f"attempt {last.number if last else 1}, by {who}")
    if not starts:
        return RunStatus("not started", "it was submitted, but no driver was started")
    seen = _ask_launcher(starts[-1], max_age_seconds=launcher_seconds)
    if seen.state == "waiting":
        return RunStatus("waiting", seen.detail)
    if last is None or last.start != starts[-1].number:
        return _before_first_attempt(starts[-1], seen)
    if seen.state == "running" and last.outcome in _STARTED_AGAIN:
        return RunStatus("starting", f"again, after attempt {last.number} ({last.outcome or 'lost'}); {seen.detail}")
    return _after_attempt(directory, last)


def launcher_of(start: StartRecord) -> Launcher:
    """Return the launcher of a start. Raises UserError if this version cannot read the start's cluster file."""
    try:
        return launcher_for(ClusterConfig.model_validate(start.cluster))
    except ValidationError as error:
        raise UserError(
            f"the cluster file of start {start.number} is not one that this version of Concord can read "
            f"({error.error_count()} problems); use the version that made the start"
        ) from error


def steps_of(directory: RunDirectory) -> list[PlannedStep]:
    """Return the steps as they were planned at the last start; none if there was no start.

    A fingerprint has only those digits that are part of the artifact's name; `observed` is not known and is None.
    """
    artifacts = _artifacts(directory)
    if not artifacts:
        return []
    recipe = _recipe(directory)
    return [
        PlannedStep(
            name=name,
            origin=(origin := recipe.origin(name) or name),
            stage=(step := recipe.steps[origin]).stage,
            version=0,
            config=step.config,
            observed=None,
            inputs=step.inputs,
            pool=step.pool,
            fingerprint=artifact.removeprefix(f"{step.stage}-"),
        )
        for name, artifact in artifacts.items()
    ]


def outputs_of(directory: RunDirectory) -> dict[str, str]:
    """Return the artifacts that are wanted of the run, by step name; none if there was no start."""
    run, artifacts = directory.run(), _artifacts(directory)
    assert run is not None
    try:
        wiring = _Wiring.model_validate(run.recipe)
    except ValidationError as error:
        raise _unreadable(directory, error) from error
    return {name: artifact for name, artifact in artifacts.items() if wiring.wants(name)}


def list_finished(home: Path, artifacts: Mapping[str, str]) -> frozenset[str]:
    """Return the artifacts that are finished in a store, and the checkpoints of those that are not.

    An attempt has made progress if this is not after it what it was before it.
    """
    found = set()
    for artifact in artifacts.values():
        if (home / artifact / RECORD).exists():
            found.add(artifact)
        else:
            checkpoints = list_checkpoints(home / artifact / CHECKPOINTS)
            found.update(str(path) for path in checkpoints if (path / CHECKPOINT_FILE).exists())
    return frozenset(found)


def are_all_finished(home: Path, artifacts: Mapping[str, str]) -> bool:
    """Return whether all artifacts are finished in a store."""
    return all((home / artifact / RECORD).exists() for artifact in artifacts.values())


def _before_first_attempt(start: StartRecord, seen: DriverStatus) -> RunStatus:
    """Return the status of a run whose lease nobody holds, and whose last start has made no attempt."""
    if start.handle is None:
        return RunStatus("not started", f"start {start.number} was written down, but its launcher was not reached")
    if seen.state == "running":
        return RunStatus("starting", seen.detail)
    if seen.state == "unknown":
        return RunStatus("unknown", f"no driver of start {start.number} has been seen yet ({seen.detail})")
    return RunStatus("failed", f"the driver ended before its first attempt ({seen.detail}){_last_words(start)}")


def _after_attempt(directory: RunDirectory, last: AttemptRecord) -> RunStatus:
    """Return the status of a run whose lease nobody holds, by its last attempt."""
    if last.outcome is None:
        return RunStatus("lost", f"attempt {last.number}'s driver, process {last.pid} on {last.host}, is gone")
    if last.outcome == "finished":
        gone = _missing_output(directory)
        return RunStatus("failed", f"finished before, but {gone} is no longer in the store; resume makes it again")
    if last.outcome == "stopped":
        return RunStatus("stopped", last.reason)
    return RunStatus("failed", f"attempt {last.number}: {last.outcome.replace('_', ' ')}: {last.reason}")


def _ask_launcher(start: StartRecord, *, max_age_seconds: float) -> DriverStatus:
    if start.handle is None:
        return DriverStatus("unknown", "the launcher was not reached")
    when, answer = _answers.get(start.handle, (-math.inf, None))
    is_local = _launcher_kind(start) == "local"
    if answer is None or is_local or time.monotonic() - when > max_age_seconds:
        answer = _ask_again(start, start.handle)
        _answers[start.handle] = time.monotonic(), answer
    return answer


def _launcher_kind(start: StartRecord) -> str:
    """Return the kind of a start's launcher, as it stands in the cluster file of whatever version."""
    match start.cluster:
        case {"launcher": {"kind": str(kind)}}:
            return kind
    return ""


def _ask_again(start: StartRecord, handle: str) -> DriverStatus:
    try:
        return launcher_of(start).status(handle)
    except UserError as error:  # a launcher that cannot be asked from here says nothing of the run
        return DriverStatus("unknown", str(error))
    except ValidationError:
        return DriverStatus("unknown", "this version cannot read what the launcher called it")


def _last_words(start: StartRecord) -> str:
    """Return the last line that the driver printed, in words for a status, if its launcher has kept it."""
    try:
        words = launcher_of(start).last_output(start.handle).strip() if start.handle else ""
    except UserError as error:
        return f"; its last words cannot be had: {error}"
    return f"; its last words: {words.splitlines()[-1]}" if words else ""


def _missing_output(directory: RunDirectory) -> str | None:
    """Return a wanted artifact that is not in the store, if there is one."""
    return next((artifact for artifact in outputs_of(directory).values() if not directory.has_artifact(artifact)), None)


class _Step(BaseModel):
    inputs: dict[str, str | tuple[str, ...]] = {}


class _Wiring(BaseModel):
    """How a recipe's steps are joined, and no more of it: a recipe of any version can be read so far."""

    steps: dict[str, _Step]
    outputs: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Return whether a step, or the step that it is a part of, is wanted."""
        wanted = self.outputs or unused_steps({name: step.inputs for name, step in self.steps.items()})
        used = {one for step in self.steps.values() for one in all_inputs(step.inputs)}
        if name in self.steps or name in used:
            return name in wanted
        return any(name == one or name.startswith(f"{one}.") for one in wanted if one not in used)


def _artifacts(directory: RunDirectory) -> dict[str, str]:
    starts = directory.starts()
    return starts[-1].artifacts if starts else {}


def _recipe(directory: RunDirectory) -> RunConfig:
    run = directory.run()
    assert run is not None
    try:
        return RunConfig.model_validate(run.recipe)
    except ValidationError as error:
        raise _unreadable(directory, error) from error


def _unreadable(directory: RunDirectory, error: ValidationError) -> UserError:
    return UserError(
        f"the recipe of run {directory.id} is not one that this version of Concord can read ({error.error_count()} "
        "problems); use the version that submitted the run"
    )
