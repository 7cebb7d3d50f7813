"""What the commands do, given where to print."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape

from configs.base import Manifest, UserError
from configs.cluster import ClusterConfig, StorageConfig
from configs.load import Loaded, Problem, load, shipped
from configs.run import RunConfig
from pipeline.cli.status import step_state
from pipeline.graph.digests import Digests
from pipeline.graph.plan import Plan, PlannedStep, make_plan, wiring_problems
from pipeline.graph.stages import STAGES
from pipeline.runner import Runner
from pipeline.runs.retry import RESUME_ME
from pipeline.store.artifact import load_artifact
from pipeline.store.remote import RemoteStore, home_of, remote_store


class Interrupted(UserError):
    """The user pressed Ctrl-C."""

    exit_code = 130  # 128 + SIGINT, as shells have it


class Terminated(UserError):
    """Somebody else, such as a scheduler, ended the run."""

    exit_code = RESUME_ME


@dataclass(frozen=True)
class Prepared:
    """A recipe that can be run: what is to be made, and where."""

    plan: Plan
    store: Path
    """Where the store's files are; of a store that is a URL its working copy."""

    remote: RemoteStore | None
    """The store that is a URL."""

    loaded: Loaded[RunConfig]

    def has(self, step: PlannedStep) -> bool:
        """Whether a step is made already."""
        here = load_artifact(self.store / step.artifact, STAGES[step.stage].output) is not None
        return here or (self.remote is not None and self.remote.has(step.artifact))


def run_recipe(recipe: Path, cluster: str, overrides: tuple[str, ...], out: Console) -> None:
    """Make what is missing, and say what there is."""
    from cluster.doctor.address import refuse_open_ray

    machines = load(shipped("clusters", cluster), ClusterConfig).config
    refuse_open_ray(machines)
    os.environ.update(machines.environment)  # of a run that is submitted its launcher does it
    run_prepared(prepare(recipe, overrides, machines.storage), machines, cluster, out)


def run_prepared(
    ready: Prepared,
    machines: ClusterConfig,
    cluster: str,
    out: Console,
    *,
    failures: Path | None = None,
    avoid: frozenset[str] = frozenset(),
    take_over: bool = False,
) -> None:
    """Make what is missing of a recipe that has been read. `failures`: where failures of nodes are written down."""
    start = time.perf_counter()
    check_pools(ready, machines, cluster)

    from cluster.connect import executor_for
    from cluster.ray.quarantine import NodeFailures

    def end(step: PlannedStep, manifest: Manifest, seconds: float | None) -> None:
        word = "reused" if seconds is None else f"{seconds:.1f} s"
        out.print(f"[bold]{step.name}[/]  {escape(manifest.summary())}  [dim]{step.artifact}, {word}[/]")

    def begin(step: PlannedStep) -> None:
        out.print(f"[bold]{step.name}[/]  [dim]making {step.artifact}[/]")

    known = NodeFailures(failures)
    runner = Runner(
        ready.plan,
        STAGES,
        ready.store,
        lambda pool: executor_for(machines, pool, failures=known, avoid=avoid),
        Digests(ready.store),
        begin,
        end,
        remote=ready.remote,
        take_over=take_over,
    )
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _terminate)
    try:
        runner.run()
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command to go on") from None
    where = ready.remote.url if ready.remote else str(ready.store)
    out.print(f"done in {time.perf_counter() - start:.1f} s: {', '.join(ready.plan.outputs)} in {escape(where)}")


def _terminate(number: int, frame: FrameType | None) -> None:
    """Training asks for a checkpoint first: training/loop/stop_requests.py."""
    raise Terminated("terminated; run the same command to go on")


def show_status(recipe: Path, overrides: tuple[str, ...], out: Console, *, work_dir: str | None = None) -> None:
    """One line a step: done, being made and by whom, begun, or not begun; and below it, how a training is going."""
    ready = prepare(recipe, overrides, None if work_dir is None else StorageConfig(work_dir=work_dir))
    remote = ready.remote.store if ready.remote else None
    for step in ready.plan.steps.values():
        state, rows = step_state(step, ready.store, remote)
        out.print(f"[bold]{step.name}[/]  {escape(state)}  [dim]{step.artifact}[/]")
        for name, value in rows:
            out.print(f"  [dim]{name:<13}[/]  {escape(value)}")


def prepare(recipe: Path, overrides: tuple[str, ...], storage: StorageConfig | None = None) -> Prepared:
    """Read, check, look at the sources, plan. Raises ConfigError or UserError."""
    storage = storage or StorageConfig()
    loaded = load(shipped("recipes", str(recipe)), RunConfig, overrides)
    loaded.fail(wiring_problems(loaded.config, STAGES))
    store = home_of(loaded.config.store, storage.work_dir)
    plan = make_plan(loaded.config, STAGES, _observe(loaded, store))
    return Prepared(plan, store, remote_store(loaded.config.store, storage), loaded)


def _observe(loaded: Loaded[RunConfig], store: Path) -> dict[str, JsonValue]:
    """What the sources hold, by step name."""
    digests = Digests(store)
    seen: dict[str, JsonValue] = {}
    problems: list[Problem] = []
    for name, step in loaded.config.steps.items():
        if (observe := STAGES[step.stage].observe) is not None:
            try:
                seen[name] = observe(step.config, digests)
            except UserError as error:
                problems.append(Problem(("steps", name, "config"), str(error)))
    digests.save()
    loaded.fail(problems)
    return seen


def check_pools(ready: Prepared, machines: ClusterConfig, cluster: str) -> None:
    """Raise ConfigError if a step wants a pool that the cluster file does not have."""
    steps = ready.plan.steps.values()
    missing = [step for step in steps if step.pool not in machines.pools]
    ready.loaded.fail(
        Problem(
            ("steps", step.name, "pool"),
            f"step {step.name!r} wants pool {step.pool!r}, which cluster {cluster!r} does not have "
            f"(it has: {', '.join(machines.pools)})",
        )
        for step in missing
    )
