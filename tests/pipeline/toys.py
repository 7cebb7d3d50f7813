"""Toy stages that write text, the recipe that joins them, and a way to run it.

first (write) -> twice (repeat) -> book (bind) <- other (write)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.executor import Executor
from cluster.host.files import sha256_of
from cluster.inline import InlineExecutor
from configs.base import Artifact, Config, Manifest
from configs.pools import PoolConfig
from configs.run import RunConfig
from pipeline.graph.plan import Plan, make_plan
from pipeline.graph.stage import Stage, stage
from pipeline.graph.wiring import Names, as_names
from pipeline.runner import Runner
from pipeline.store.artifact import Record


class Text(Manifest):
    path: str

    def summary(self) -> str:
        return self.path


class Page(Text):
    pass


class Write(Config):
    text: str


class Repeat(Config):
    times: int = 2


class Bind(Config):
    title: str = "a book"


def write(config: Write, *, out: Path, executor: Executor) -> Text:
    (out / "text.txt").write_text(config.text)
    return Text(path="text.txt")


def repeat(config: Repeat, *, text: Artifact[Text], out: Path, executor: Executor) -> Text:
    (out / "text.txt").write_text((text.dir / text.manifest.path).read_text() * config.times)
    return Text(path="text.txt")


def bind(config: Bind, *, left: Artifact[Text], right: Artifact[Text], out: Path, executor: Executor) -> Page:
    pages = [(side.dir / side.manifest.path).read_text() for side in (left, right)]
    (out / "pages").mkdir(exist_ok=True)
    (out / "pages" / "page.txt").write_text("\n".join([config.title, *pages]))
    return Page(path="pages/page.txt")


STAGES = {"write": stage(write, version=1), "repeat": stage(repeat, version=1), "bind": stage(bind, version=1)}


@dataclass(frozen=True)
class ToyStep:
    """What the plan reads of a step of a recipe."""

    stage: str
    config: Config
    inputs: Mapping[str, Names] = field(default_factory=dict)
    pool: str = "default"
    cadence: Config | None = None

    def given(self, slot: str) -> tuple[str, ...]:
        return as_names(self.inputs.get(slot, ()))


@dataclass(frozen=True)
class ToyRun:
    """What the plan reads of a recipe."""

    steps: Mapping[str, ToyStep]
    outputs: tuple[str, ...] = ()

    origin, step_of = RunConfig.origin, RunConfig.step_of


def recipe(**changes: ToyStep) -> ToyRun:
    """The toy recipe, with some steps replaced or added."""
    steps = {
        "first": ToyStep("write", Write(text="one ")),
        "other": ToyStep("write", Write(text="two ")),
        "twice": ToyStep("repeat", Repeat(), {"text": "first"}),
        "book": ToyStep("bind", Bind(), {"left": "twice", "right": "other"}),
    }
    return ToyRun(steps | changes)


def planned(run: ToyRun | None = None, stages: Mapping[str, Stage] = STAGES, **observed: object) -> Plan:
    return make_plan(run or recipe(), stages, observed)


def instead_of(name: str, run: object, **changes: object) -> dict[str, Stage]:
    """The table of stages with another function for one of them, of the same identity."""
    return STAGES | {name: replace(STAGES[name], run=run, **changes)}


@dataclass
class Outcome:
    """What a run did: the artifacts it came to, and the names of the steps it made and those it reused, in order."""

    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)


def run(
    store: Path,
    plan: Plan | None = None,
    stages: Mapping[str, Stage] = STAGES,
    *,
    has_room_beside: bool = False,
    on_end: Callable[[str], object] = lambda name: None,
) -> Outcome:
    """Run a plan; `on_end` is called with the name of each step that was needed."""
    outcome = Outcome()

    def end(step, manifest, seconds):
        (outcome.reused if seconds is None else outcome.made).append(step.name)
        on_end(step.name)

    executor = InlineExecutor(PoolConfig())
    plan = plan or planned(stages=stages)
    runner = Runner(plan, stages, store, lambda pool: executor, sha256_of, on_end=end, has_room_beside=has_room_beside)
    outcome.artifacts = runner.run()
    return outcome


def record_of(stage: str, manifest: Manifest | dict[str, Any], **changes: Any) -> Record:
    """Return the record of an artifact of some stage with this manifest."""
    plain = manifest.model_dump(mode="json") if isinstance(manifest, Manifest) else manifest
    empty: dict[str, Any] = {"config": {}, "observed": None, "inputs": {}, "files": {}, "placement": {}, "packages": {}}
    return Record(
        step=stage,
        stage=stage,
        version=1,
        fingerprint="0" * 64,
        manifest=plain,
        started=datetime(2026, 11, 25, tzinfo=UTC),
        seconds=1.0,
        attempts=1,
        code="",
        host="",
        **(empty | changes),
    )
