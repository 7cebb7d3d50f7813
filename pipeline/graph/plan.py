"""RunConfig -> plan. Pure: no files, no clock, no cluster."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from configs.base import Config
from configs.run import RunConfig
from pipeline.graph.fingerprint import fingerprint, identity_of
from pipeline.graph.stage import Stage
from pipeline.graph.wiring import Names, as_names, wanted_steps, wire


@dataclass(frozen=True)
class PlannedStep:
    """What makes one artifact, with its identity: a step of the recipe, or its part for one source."""

    name: str
    origin: str
    """The step of the recipe."""

    stage: str
    version: int
    config: Config
    observed: JsonValue
    inputs: Mapping[str, Names]
    """For each slot the step that fills it, or, where it takes a list, the steps."""

    pool: str
    fingerprint: str
    cadence: Config | None = None
    """What the stage takes as `cadence`, if it does; no part of the identity."""

    def one(self, slot: str) -> str | None:
        """Return the step that fills a slot which takes one artifact; None if it is left out."""
        given = self.inputs.get(slot)
        assert given is None or isinstance(given, str), f"{slot} takes a list"
        return given

    def listed(self, slot: str) -> tuple[str, ...]:
        """Return the steps that fill a slot; none if it is left out."""
        return as_names(self.inputs.get(slot, ()))

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
    """`run` must have no wiring problems. `observed` holds, by laid-out step, what stages that observe have seen."""
    wired, _ = wire(run, stages)
    planned: dict[str, PlannedStep] = {}
    for name, step in wired.items():
        made_from = {
            slot: planned[given].fingerprint if isinstance(given, str) else [planned[one].fingerprint for one in given]
            for slot, given in step.inputs.items()
        }
        version, seen = stages[step.stage].version, observed.get(name)
        identity = fingerprint(step.stage, version, identity_of(step.config, observed=True), made_from, seen)
        planned[name] = PlannedStep(
            name,
            step.origin,
            step.stage,
            version,
            step.config,
            seen,
            step.inputs,
            step.pool,
            identity,
            step.cadence,
        )
    return Plan(planned, wanted_steps(run, wired))
