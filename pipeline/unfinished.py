"""Evaluating and exporting a checkpoint of a training as it stands, finished or not: `concord run --checkpoint`."""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from cluster.host.files import write_text
from configs.base import Artifact, Manifest, UserError
from configs.evaluation import CheckpointChoice
from configs.training.train import TrainConfig
from data_prep.manifests import TokenizedCorpus
from data_prep.tokens.join import join_tokens
from pipeline.graph.plan import PlannedStep, make_plan
from pipeline.graph.wiring import all_inputs
from pipeline.prepare import Prepared
from pipeline.runner import make_record
from pipeline.stages import STAGES
from pipeline.store.artifact import Record, kept_record, load_artifact
from training.checkpoint.choice import Choice, choose_checkpoints
from training.log.sessions_file import SessionStart, read_session_events
from training.log.summary import summarise_training
from training.manifests import TrainedModel
from training.records import CHECKPOINTS, read_known_record, step_of


def with_checkpoint(ready: Prepared, text: str | None) -> Prepared:
    """Return the same, to evaluate and export one checkpoint of its trainings and to make nothing else.

    `text` is `last`, `best` or the number of a step. Of a training that is not finished, the first two become the step
    that they are now, so that what is made keeps its identity. Raises UserError if a checkpoint is not there.
    """
    if text is None:
        return ready
    choice = _parse(text)
    taking = {
        name: ready.plan.steps[ready.plan.steps[name].one("model") or ""]
        for name in _ancestors(ready)
        if isinstance(ready.plan.steps[name].config, CheckpointChoice)
    }
    if not taking:
        raise UserError(f"--checkpoint {text}: no wanted step of this recipe evaluates or exports a training; add one")
    trainings = {step.name: step for step in taking.values()}
    steps = _resolve_all(trainings, choice, ready)
    taking = {name: training for name, training in taking.items() if training.name in steps}
    trainings = {name: trainings[name] for name in steps}
    recipe = ready.loaded.config
    origins = {ready.plan.steps[name].origin: training for name, training in taking.items()}
    changed = {
        name: recipe.steps[name].model_copy(
            update={"config": recipe.steps[name].config.model_copy(update={"checkpoint": steps[training.name]})}
        )
        for name, training in origins.items()
    }
    recipe = recipe.model_copy(update={"steps": {**recipe.steps, **changed}, "outputs": tuple(taking)})
    observed = {name: step.observed for name, step in ready.plan.steps.items()}
    as_they_are = {name: _describe(step, steps[name], ready) for name, step in trainings.items() if not ready.has(step)}
    return replace(ready, plan=make_plan(recipe, STAGES, observed), as_they_are=as_they_are)


def _parse(text: str) -> Choice:
    if text in ("last", "best"):
        return "last" if text == "last" else "best"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UserError(f"--checkpoint {text}: give last, best, or the number of a step")


def _ancestors(ready: Prepared) -> list[str]:
    """Return the wanted steps and all that they are made from, in the plan's order."""
    found, left = set[str](), list(ready.plan.outputs)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += all_inputs(ready.plan.steps[name].inputs)
    return [name for name in ready.plan.steps if name in found]


def _resolve_all(trainings: Mapping[str, PlannedStep], choice: Choice, ready: Prepared) -> dict[str, Choice]:
    """Return the checkpoint of each training that has it; of trainings that follow each other the later may not."""
    steps, problems = dict[str, Choice](), list[str]()
    for name, step in trainings.items():
        try:
            steps[name] = _resolve(step, choice, ready)
        except UserError as error:
            problems.append(f"step {name!r}: {error}")
    if not steps:
        raise UserError("; ".join(problems))
    return steps


def _resolve(step: PlannedStep, choice: Choice, ready: Prepared) -> Choice:
    if ready.has(step):
        if choice != "last" and (ready.store / step.artifact).is_dir():
            choose_checkpoints(ready.store / step.artifact / CHECKPOINTS, choice)  # to say now if it is not there
        return choice
    root = ready.store / step.artifact / CHECKPOINTS
    if ready.remote is not None and not root.is_dir():
        ready.remote.recover(step.artifact)
    return step_of(choose_checkpoints(root, choice)[0])


def _describe(step: PlannedStep, choice: Choice, ready: Prepared) -> Artifact[Manifest]:
    """Return a training up to a checkpoint as if it had ended there."""
    directory = ready.store / step.artifact
    assert isinstance(step.config, TrainConfig)
    tokens = []
    for name in step.listed("tokens"):
        artifact = ready.plan.steps[name].artifact
        if (read := load_artifact(ready.store / artifact, TokenizedCorpus)) is None:
            raise UserError(f"{artifact}, which the training {step.artifact} reads, is gone; make it again first")
        tokens.append(read)
    (checkpoint,) = choose_checkpoints(directory / CHECKPOINTS, choice)
    manifest = summarise_training(directory, step.config, join_tokens(tokens).manifest, read_known_record(checkpoint))
    path = kept_record(ready.store, step.artifact)
    path.parent.mkdir(exist_ok=True)
    write_text(path, _record(step, manifest, ready).model_dump_json(indent=2))
    return Artifact(directory, manifest)


def _record(step: PlannedStep, manifest: TrainedModel, ready: Prepared) -> Record:
    """Return the record that the training would have if it had ended there, for the lineage of what is made of it."""
    directory = ready.store / step.artifact
    starts = [event.time for event in read_session_events(directory) if isinstance(event, SessionStart)]
    began = min(starts, default=time.time())
    return make_record(
        step,
        ready.plan,
        manifest,
        files={},
        started=datetime.fromtimestamp(began, UTC),
        seconds=round(time.time() - began, 3),
        attempts=len(starts),
    )
