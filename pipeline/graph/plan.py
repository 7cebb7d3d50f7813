"""RunConfig -> plan. Pure: no files, no clock, no cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from pydantic import JsonValue

from configs.base import Config
from configs.load import Problem
from configs.messages import Location
from configs.run import RunConfig
from pipeline.graph.fingerprint import fingerprint, identity_of
from pipeline.graph.stage import Stage


@dataclass(frozen=True)
class PlannedStep:
    """One step with its identity. `inputs` maps each slot to the name of the step that fills it."""

    name: str
    stage: str
    version: int
    config: Config
    observed: JsonValue
    inputs: Mapping[str, str]
    pool: str
    fingerprint: str
    cadence: Config | None = None
    """What the stage takes as `cadence`, if it does; no part of the identity."""

    @property
    def artifact(self) -> str:
        """Name of the artifact's directory in the store."""
        return f"{self.stage}-{self.fingerprint[:12]}"


@dataclass(frozen=True)
class Plan:
    """Steps in an order that respects their inputs, and the names of the wanted ones."""

    steps: Mapping[str, PlannedStep]
    outputs: tuple[str, ...]


def make_plan(run: RunConfig, stages: Mapping[str, Stage], observed: Mapping[str, JsonValue]) -> Plan:
    """`run` must have no wiring problems. `observed` holds, by step name, what stages that observe have seen."""
    order = TopologicalSorter({name: step.inputs.values() for name, step in run.steps.items()}).static_order()
    planned: dict[str, PlannedStep] = {}
    for name in order:
        step = run.steps[name]
        made_from = {slot: planned[source].fingerprint for slot, source in step.inputs.items()}
        version, seen = stages[step.stage].version, observed.get(name)
        identity = fingerprint(step.stage, version, identity_of(step.config, observed=True), made_from, seen)
        planned[name] = PlannedStep(
            name,
            step.stage,
            version,
            step.config,
            seen,
            step.inputs,
            step.pool,
            identity,
            getattr(step, "cadence", None),
        )
    return Plan(planned, run.outputs or unused_steps({name: step.inputs for name, step in run.steps.items()}))


def wiring_problems(run: RunConfig, stages: Mapping[str, Stage]) -> list[Problem]:
    """Everything wrong with how steps are joined, all at once; empty if they can be planned."""
    problems = [problem for name in run.steps for problem in _step_problems(run, stages, name)]
    for i, output in enumerate(run.outputs):
        if output not in run.steps:
            problems.append(Problem(("outputs", i), f"no step is named {output!r}{_hint(output, run.steps)}"))
    return problems or _cycle_problems(run)


def _step_problems(run: RunConfig, stages: Mapping[str, Stage], name: str) -> list[Problem]:
    step, at = run.steps[name], ("steps", name, "inputs")
    stage = stages[step.stage]
    wanted = stage.inputs
    problems = [
        Problem((*at, slot), f"step {name!r}: stage {step.stage!r} has no input {slot!r}{_hint(slot, wanted)}")
        for slot in step.inputs
        if slot not in wanted
    ]
    for slot, kind in wanted.items():
        if slot in stage.optional_inputs and slot not in step.inputs:
            continue
        problems += _slot_problems(run, stages, name, slot, kind.__name__, (*at, slot))
    return problems


def _slot_problems(
    run: RunConfig, stages: Mapping[str, Stage], name: str, slot: str, kind: str, at: Location
) -> list[Problem]:
    makers = [other for other, step in run.steps.items() if stages[step.stage].output.__name__ == kind]
    candidates = f"; steps that make it: {', '.join(makers) or 'none in this recipe'}"
    source = run.steps[name].inputs.get(slot)
    if source is None:
        return [Problem(at, f"step {name!r} needs input {slot!r}, the step that makes a {kind}{candidates}")]
    if source not in run.steps:
        return [Problem(at, f"step {name!r}: no step is named {source!r}{_hint(source, run.steps)}")]
    made = stages[run.steps[source].stage].output.__name__
    if made != kind:
        return [Problem(at, f"step {name!r}: {slot!r} wants a {kind}, but {source!r} makes a {made}{candidates}")]
    return []


def _cycle_problems(run: RunConfig) -> list[Problem]:
    try:
        TopologicalSorter({name: step.inputs.values() for name, step in run.steps.items()}).prepare()
    except CycleError as error:
        return [Problem(("steps",), f"steps need each other in a circle: {' <- '.join(error.args[1])}")]
    return []


def unused_steps(inputs: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Return the steps that no other step uses, wanted if a recipe names no outputs. `inputs` is by step and slot."""
    used = {source for slots in inputs.values() for source in slots.values()}
    return tuple(name for name in inputs if name not in used)


def _hint(word: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (there are: {', '.join(known) or 'none'})"
