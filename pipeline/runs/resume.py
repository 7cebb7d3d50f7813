"""`concord resume`: start a run's driver again after it has ended, was stopped or died.

In order:
1. It refuses a run that is finished, and one that has a driver, unless that is to be taken over.
2. It takes the cluster file as it was at the last start, or the one given, and checks the time limit.
3. It goes to the directory that the run was submitted from and plans the recipe that was submitted.
4. It examines the machines, and leaves out those that fail.
5. It compares all of this with the last start and shows what differs: another artifact is refused, since that would be
   another run; what may change results is asked about; the rest is only shown.
6. It writes the new start down and has the launcher start its driver, which goes on where the last attempt ended.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm

from cluster.doctor.address import refuse_open_ray
from cluster.launch.launcher import launcher_for
from cluster.storage.errors import error_class
from configs.base import ConfigError, UserError
from configs.cluster import ClusterConfig
from configs.load import load, shipped
from configs.run import RunConfig
from pipeline.prepare import check_pools, check_profile, check_stages, prepare, unused_pools, with_profile
from pipeline.recipe import read_recipe
from pipeline.runs.attempt import write_recipe
from pipeline.runs.directory import RunDirectory, RunRecord, StartRecord
from pipeline.runs.driver import spent_seconds
from pipeline.runs.state import read_status
from pipeline.runs.submit import check_machines, content_of, plan_start, shown_changes, start_driver
from pipeline.store.lineage import shorten_digests

Meaning = Literal["refuse", "ask", "note"]
"""`refuse`: another run would come of it. `ask`: it may change results. `note`: it does not."""

_NUMERIC = ("torch", "deepspeed", "transformers", "numpy", "python", "tokenizers", "sentencepiece")
"""Packages whose version may change results. The others move files and start processes."""

_SUMMATION = (
    "num_ranks",
    "min_ranks",
    "zero_stage",
    "micro_batch_size",
    "accelerator",
    "attention",
    "compile",
    "deterministic",
)
"""Settings of a pool that change the order of floating-point sums, or the kernels that compute them."""


@dataclass(frozen=True)
class Difference:
    """Something that is not what it was at the last start, with both values as they are shown."""

    what: str
    before: str
    after: str
    meaning: Meaning
    consequence: str
    """What the difference changes, in words."""


def resume_run(
    directory: RunDirectory,
    out: Console,
    *,
    cluster: str | None,
    yes: bool,
    take_over: bool,
    check_first: bool,
    profile: str | None = None,
) -> None:
    """Show what differs from the last start, and start a driver that goes on where the last one ended.

    `profile` names the optimizer steps that its trainings record (pipeline/prepare.py), which the last start's do not.
    Raises UserError where the run cannot be resumed, or the user does not agree to what differs.
    """
    run, starts = directory.run(), directory.starts()
    assert run is not None
    status = read_status(directory)
    if status.word == "finished":
        out.print(f"run [bold]{run.id}[/] is finished: there is nothing to resume")
        return
    if (status.is_live or status.word == "unknown") and not take_over:
        raise UserError(
            f"run {run.id} is {status.word} ({status.detail}); wait for it, or `concord stop {run.id}` first; if it is "
            "cut off and cannot be stopped, --take-over starts another driver and lets the old one commit nothing more"
        )
    name = cluster or (starts[-1].cluster_name if starts else "local")
    again = cluster is None and bool(starts)
    machines = ClusterConfig.model_validate(starts[-1].cluster) if again else _cluster_file(name)
    _check_time(directory, machines)
    _enter_directory(run)
    if again:
        _report_cluster_file(starts[-1], out)
    ready = with_profile(prepare(read_recipe(write_recipe(directory), ()), machines.storage), profile)
    check_pools(ready, machines, name)
    machines = machines.without_pools(unused_pools(ready, machines))
    check_stages(ready)
    check_profile(ready, profile)
    refuse_open_ray(machines)
    avoid = check_machines(machines, directory, out) if check_first else ()
    start = plan_start(len(starts) + 1, ready, name, machines, avoid=avoid, take_over=take_over, profile=profile)
    found = [*(compare_starts(starts[-1], start) if starts else []), *_compare_recipe_file(run, out)]
    _confirm(found, out, yes=yes)
    launcher_for(machines).check()
    start_driver(directory, run, start, machines)
    out.print(f"run [bold]{run.id}[/] resumed on {escape(name)}: start {start.number}")


def _confirm(found: list[Difference], out: Console, *, yes: bool) -> None:
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


def compare_starts(before: StartRecord, after: StartRecord) -> list[Difference]:
    """Return what differs between two starts: data and recipe (by the artifacts' names), cluster, code, packages."""
    return [
        *_compare_artifacts(before, after),
        *_compare_clusters(before, after),
        *_compare_code(before, after),
        *_compare_packages(before.packages, after.packages),
    ]


def _compare_artifacts(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    note = "it would make something else: put the sources and the code back, or submit the recipe under another --id"
    for step in dict.fromkeys([*before.artifacts, *after.artifacts]):
        old, new = before.artifacts.get(step, "absent"), after.artifacts.get(step, "absent")
        if old != new:
            yield Difference(f"what step {step} makes", old, new, "refuse", note)


def _compare_clusters(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    for key, old, new in shown_changes(before.cluster, after.cluster):
        sums = key.startswith("pools.") and key.rpartition(".")[2] in _SUMMATION
        note = "the samples stay; sums are taken in another order, so losses agree to rounding" if sums else "no change"
        yield Difference(f"cluster: {key}", old, new, "note", note)


def _compare_code(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    if before.code != after.code:
        note = "the stages are of the same versions, which promises the same results, but the code differs"
        yield Difference("code", shorten_digests(before.code), shorten_digests(after.code), "ask", note)


def _compare_packages(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, "absent"), after.get(name, "absent")
        if old == new or name == "concord-train":
            continue
        numeric = name in _NUMERIC
        note = "it may round, or compute, differently" if numeric else "no change"
        yield Difference(f"version of {name}", old, new, "ask" if numeric else "note", note)


def _compare_recipe_file(run: RunRecord, out: Console) -> list[Difference]:
    """Return how the recipe's file differs by now from what was submitted, which the run keeps to."""
    try:
        now = load(Path(run.recipe_path), RunConfig, run.overrides).config
    except ConfigError as error:
        out.print(f"[dim]the recipe's file cannot be compared: {escape(str(error).splitlines()[0])}[/]")
        return []
    note = "the run goes on with the recipe as it was submitted; for the new one submit it under another --id"
    changes = shown_changes(run.recipe, content_of(now))
    return [Difference(f"recipe: {key}", old, new, "ask", note) for key, old, new in changes]


def _cluster_file(name: str) -> ClusterConfig:
    return load(shipped("clusters", name), ClusterConfig).config


def _check_time(directory: RunDirectory, machines: ClusterConfig) -> None:
    limit, spent = machines.time_limit_minutes, spent_seconds(directory.attempts())
    if limit is not None and spent > limit * 60:
        raise UserError(
            f"the time limit of {limit:g} minutes of run {directory.id} is over; raise time_limit_minutes in a cluster "
            "file and give that with --cluster"
        )


def _report_cluster_file(start: StartRecord, out: Console) -> None:
    """Say so if the cluster file has changed since the last start, for the run goes on with it as it was then."""
    try:
        now = _cluster_file(start.cluster_name).model_dump(mode="json")
    except ConfigError:  # it is no longer there, or is not here
        return
    if differing := [key for key, _, _ in shown_changes(start.cluster, now)]:
        out.print(
            f"{escape(start.cluster_name)} has changed since ({escape(', '.join(differing))}); the run goes on with it "
            f"as it was: to take it as it is now, give --cluster {escape(start.cluster_name)}"
        )


def _enter_directory(run: RunRecord) -> None:
    """Change to the directory that the run was submitted from: the recipe's relative paths are relative to it."""
    try:
        os.chdir(run.directory)
    except OSError as error:
        raise error_class(error)(
            f"{run.directory}, where run {run.id} was submitted from, cannot be entered here ({error.strerror}); give "
            "the command on a machine that has it"
        ) from error
