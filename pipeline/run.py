"""Running a recipe in this process: what `concord run` does, and what an attempt of a submitted run does."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from configs.base import RESUME_ME, Manifest, UserError
from configs.cluster import ClusterConfig
from configs.load import Loaded, load, shipped
from configs.run import RunConfig
from pipeline.data_checks import data_problems
from pipeline.graph.fingerprint import Digests
from pipeline.graph.plan import PlannedStep
from pipeline.layout_checks import check_layouts, check_pool_settings
from pipeline.prepare import (
    Prepared,
    check_pools,
    check_profile,
    check_stages,
    find_artifact,
    prepare,
    steps_to_make,
    with_profile,
)
from pipeline.runner import Runner
from pipeline.stages import STAGES
from pipeline.store.artifact import load_artifact
from pipeline.unfinished import with_checkpoint


class Interrupted(UserError):
    """The user pressed Ctrl-C."""

    exit_code = 130  # 128 + SIGINT, as shells have it


class Terminated(UserError):
    """A signal, such as a scheduler's, ended the run; it goes on when it is started again."""

    exit_code = RESUME_ME


def run_recipe(
    loaded: Loaded[RunConfig],
    cluster: str,
    out: Console,
    *,
    profile: str | None = None,
    checkpoint: str | None = None,
) -> None:
    """Make what is missing of a recipe, in this process, and print a line for each step: `concord run`.

    `profile` names the optimizer steps that its trainings record (pipeline/prepare.py), `checkpoint` the checkpoint
    that is evaluated and exported while nothing else is made (pipeline/unfinished.py).
    """
    from cluster.doctor.address import refuse_open_ray

    told = load(shipped("clusters", cluster), ClusterConfig)
    machines = told.config
    refuse_open_ray(machines)
    os.environ.update(machines.environment)  # for a run that is submitted its launcher does that
    ready = with_profile(prepare(loaded, machines.storage), profile)
    ready = with_checkpoint(ready, checkpoint)
    check_profile(ready, profile)
    check_pools(ready, machines, cluster)
    check_pool_settings(ready, told)
    check_layouts(ready, machines)
    run_prepared(ready, machines, cluster, out)


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
    """Make what is missing of a recipe that was prepared, and print a line for each step.

    `failures` is the file that failures of nodes are written into, `avoid` names hosts to leave out; with `take_over`
    leases that other processes hold are taken from them. SIGTERM and SIGUSR1 raise Terminated in this thread.
    """
    start = time.perf_counter()
    check_pools(ready, machines, cluster)
    check_stages(ready)
    to_make = steps_to_make(ready)

    from cluster.connect import executor_for, join_cluster
    from cluster.ray.quarantine import NodeFailures

    def end(step: PlannedStep, manifest: Manifest, seconds: float | None) -> None:
        word = "reused" if seconds is None else f"{seconds:.1f} s"
        out.print(f"[bold]{step.name}[/]  {escape(manifest.summary())}  [dim]{step.artifact}, {word}[/]")
        ready.loaded.fail(data_problems(ready.plan, step.name, partial(find_artifact, ready), to_make))

    known = NodeFailures(failures)
    runner = Runner(
        ready.plan,
        STAGES,
        ready.store,
        lambda pool: executor_for(machines, pool, failures=known, avoid=avoid),
        Digests(ready.store),
        lambda step: out.print(f"[bold]{step.name}[/]  [dim]making {step.artifact}[/]"),
        end,
        remote=ready.remote,
        take_over=take_over,
        has_room_beside=machines.executor == "ray",
        join_cluster=partial(join_cluster, machines),
        done=dict(ready.as_they_are),
    )
    _run_until_a_signal(runner)
    out.print(f"done in {time.perf_counter() - start:.1f} s")
    for name, place in results(ready):
        out.print(f"[bold]{name}[/]  {escape(place)}")


def _run_until_a_signal(runner: Runner) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _terminate)
    try:
        runner.run()
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command to go on") from None


def results(ready: Prepared) -> list[tuple[str, str]]:
    """Return where to find what a user wants of a finished recipe: each wanted output, each page, each exported model.

    A path is relative to the working directory if it is inside it. What is only in a store behind a URL has a URL.
    """
    found = []
    for name, step in ready.plan.steps.items():
        if name not in ready.plan.outputs and step.stage not in ("export", "report"):
            continue
        artifact = load_artifact(ready.store / step.artifact, STAGES[step.stage].output)
        if artifact is not None:
            found.append((name, str(_shown(artifact.dir / artifact.manifest.main_file()))))
        elif ready.remote is not None and ready.remote.has(step.artifact):
            found.append((name, f"{ready.remote.url.rstrip('/')}/{step.artifact}"))
    return found


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _terminate(number: int, frame: FrameType | None) -> None:
    # While it trains, training/loop/stop_requests.py handles these signals, and saves a checkpoint first.
    raise Terminated("terminated; run the same command to go on")
