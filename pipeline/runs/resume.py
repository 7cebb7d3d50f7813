"""Starting a run again after its driver has ended, stopped or died."""

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm

from cluster.doctor.address import refuse_open_ray
from cluster.launch.table import launcher_for
from configs.base import ConfigError, UserError
from configs.cluster import ClusterConfig
from configs.load import load, shipped
from configs.run import RunConfig
from pipeline.prepare import check_pools, prepare
from pipeline.runs.attempt import write_recipe
from pipeline.runs.differences import Difference, changed, differences, recipe_changes
from pipeline.runs.directory import RunDirectory
from pipeline.runs.driver import spent_seconds
from pipeline.runs.records import RunRecord, StartRecord
from pipeline.runs.state import state_of
from pipeline.runs.submit import begin, check_machines, content_of, plan_start


def resume(
    directory: RunDirectory,
    out: Console,
    *,
    cluster: str | None,
    yes: bool,
    take_over: bool,
    check_first: bool,
) -> None:
    """Say what differs from the last start, and start a driver that goes on where the last one ended."""
    run, starts = directory.run(), directory.starts()
    assert run is not None
    state = state_of(directory)
    if state.word == "finished":
        out.print(f"run [bold]{run.id}[/] is finished: there is nothing to resume")
        return
    if (state.live or state.word == "unknown") and not take_over:
        raise UserError(
            f"run {run.id} is {state.word} ({state.detail}); wait for it, or `concord stop {run.id}` first; if it is "
            "cut off and cannot be stopped, --take-over starts another driver and lets the old one commit nothing more"
        )
    name = cluster or (starts[-1].cluster_name if starts else "local")
    again = cluster is None and bool(starts)
    machines = ClusterConfig.model_validate(starts[-1].cluster) if again else _cluster_file(name)
    _check_time(directory, machines)
    _go_to(run)
    if again:
        _tell_cluster_file(starts[-1], out)
    ready = prepare(write_recipe(directory), (), machines.storage)
    check_pools(ready, machines, name)
    refuse_open_ray(machines)
    avoid = check_machines(machines, directory, out) if check_first else ()
    start = plan_start(len(starts) + 1, ready, name, machines, avoid=avoid, take_over=take_over)
    found = [*(differences(starts[-1], start) if starts else []), *_recipe_file(run, out)]
    _settle(found, out, yes=yes)
    launcher_for(machines).check()
    begin(directory, run, start, machines)
    out.print(f"run [bold]{run.id}[/] resumed on {escape(name)}: start {start.number}")


def _settle(found: list[Difference], out: Console, *, yes: bool) -> None:
    """Show what differs. Raises UserError where it would be another run, or where the user does not agree."""
    for one in found:
        out.print(
            f"differs: {escape(one.what)}: {escape(one.before)} -> {escape(one.after)}  [dim]{one.consequence}[/]"
        )
    if refused := [one for one in found if one.meaning == "refuse"]:
        raise UserError(f"{refused[0].what} differs from the last start; {refused[0].consequence}")
    doubtful = [one.what for one in found if one.meaning == "ask"]
    if not doubtful or yes:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"{', '.join(doubtful)} differ from the last start, which may change results; put them back, or say --yes"
        )
    if not Confirm.ask("go on all the same?", console=out, default=False):
        raise UserError("not resumed")


def _recipe_file(run: RunRecord, out: Console) -> list[Difference]:
    """How the recipe's file differs by now from what was submitted."""
    try:
        now = load(Path(run.recipe_path), RunConfig, run.overrides).config
    except ConfigError as error:
        out.print(f"[dim]the recipe's file cannot be compared: {escape(str(error).splitlines()[0])}[/]")
        return []
    return recipe_changes(run.recipe, content_of(now))


def _cluster_file(name: str) -> ClusterConfig:
    return load(shipped("clusters", name), ClusterConfig).config


def _check_time(directory: RunDirectory, machines: ClusterConfig) -> None:
    limit, spent = machines.time_limit_minutes, spent_seconds(directory.attempts())
    if limit is not None and spent > limit * 60:
        raise UserError(
            f"the time limit of {limit:g} minutes of run {directory.id} is over; raise time_limit_minutes in a cluster "
            "file and give that with --cluster"
        )


def _tell_cluster_file(start: StartRecord, out: Console) -> None:
    """Say if the cluster file is no longer what it was at the last start, which is what counts."""
    try:
        now = _cluster_file(start.cluster_name).model_dump(mode="json")
    except ConfigError:  # it is no longer there, or is not here
        return
    if differing := [key for key, _, _ in changed(start.cluster, now)]:
        out.print(
            f"{escape(start.cluster_name)} has changed since ({escape(', '.join(differing))}); the run goes on with it "
            f"as it was: to take it as it is now, give --cluster {escape(start.cluster_name)}"
        )


def _go_to(run: RunRecord) -> None:
    """Relative paths of the recipe are relative to where it was submitted from."""
    try:
        os.chdir(run.directory)
    except OSError as error:
        raise UserError(
            f"{run.directory}, where run {run.id} was submitted from, cannot be entered here ({error.strerror}); give "
            "the command on a machine that has it"
        ) from error
