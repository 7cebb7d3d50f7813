"""What a run makes, by its records alone: nothing is planned again, so no source has to be there, or as it was."""

from pydantic import BaseModel, ValidationError

from configs.base import UserError
from configs.run import RunConfig
from pipeline.graph.plan import PlannedStep
from pipeline.runs.directory import RunDirectory


class _Step(BaseModel):
    inputs: dict[str, str] = {}


class _Wiring(BaseModel):
    """Of a recipe only how its steps are joined: that can be read of a recipe of any version."""

    steps: dict[str, _Step]
    outputs: tuple[str, ...] = ()

    def wanted(self) -> tuple[str, ...]:
        used = {source for step in self.steps.values() for source in step.inputs.values()}
        return self.outputs or tuple(name for name in self.steps if name not in used)


def steps_of(directory: RunDirectory) -> list[PlannedStep]:
    """The steps as they were planned at the last start; none if there was no start.

    Of fingerprints only the digits that stand in an artifact's name are known, and `observed` is not.
    """
    artifacts = _artifacts(directory)
    if not artifacts:
        return []
    steps = _recipe(directory).steps
    return [
        PlannedStep(
            name=name,
            stage=(step := steps[name]).stage,
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
    """The artifacts that are wanted of the run, by step name; none if there was no start."""
    run, artifacts = directory.run(), _artifacts(directory)
    assert run is not None
    try:
        wanted = _Wiring.model_validate(run.recipe).wanted()
    except ValidationError as error:
        raise _unreadable(directory, error) from error
    return {name: artifacts[name] for name in wanted if name in artifacts}


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
