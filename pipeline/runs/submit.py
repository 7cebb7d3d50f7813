"""`concord submit`: write a run down and start its driver; and what `concord resume` needs of that.

Submitting is idempotent: the same recipe is the same run, and the launcher starts one driver for one start, whoever
asks and however often.
"""

import hashlib
import json
import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape

from cluster.doctor.address import refuse_open_ray
from cluster.launch.code import ROOT
from cluster.launch.launcher import Submission, launcher_for
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.load import Loaded, load, shipped
from configs.run import RunConfig
from configs.text import shorten
from pipeline.graph.config_diff import diff
from pipeline.graph.fingerprint import identity_of
from pipeline.layout_checks import check_layouts, check_pool_settings
from pipeline.prepare import (
    Prepared,
    check_pools,
    check_profile,
    check_stages,
    describe_unused,
    prepare,
    unused_pools,
    with_profile,
)
from pipeline.runs.directory import RunDirectory, RunRecord, StartRecord, check_id, now, store_of, user_name
from pipeline.runs.driver import grace_seconds
from pipeline.runs.state import read_status
from pipeline.store.provenance import CODE, code_version, package_versions

MAX_NAME = 100
"""The most characters that a run's id may have (configs/base.py)."""

_MAX_CHARACTERS = 60
"""A value that differs is shown in so many characters."""


def submit_run(
    loaded: Loaded[RunConfig],
    cluster: str,
    out: Console,
    *,
    run_id: str | None,
    check_first: bool,
    dry_run: bool,
    profile: str | None = None,
) -> str:
    """Start the recipe's run and return its id at once; if it was submitted before, print how it stands instead.

    With `check_first` the nodes are examined, and bad ones left out. With `dry_run` what would be submitted is printed,
    and nothing is done. `profile` names the optimizer steps that its trainings record (pipeline/prepare.py).
    """
    told = load(shipped("clusters", cluster), ClusterConfig)
    machines = told.config
    ready = with_profile(prepare(loaded, machines.storage), profile)
    check_pools(ready, machines, cluster)
    check_stages(ready)
    check_profile(ready, profile)
    check_pool_settings(ready, told)
    left_out = check_layouts(ready, machines)
    _check_shared(ready.loaded.config.store)
    record = _record(ready, run_id)
    directory = RunDirectory(store_of(ready.loaded.config.store), record.id, work_dir=machines.storage.work_dir)
    unused = [*describe_unused(ready, machines), *left_out]
    asked = machines.without_pools(unused_pools(ready, machines))
    if dry_run:
        start = plan_start(1, ready, cluster, machines, avoid=(), take_over=False, profile=profile)
        out.print(launcher_for(asked).render(describe_submission(directory, record, start, asked)), markup=False)
        for line in unused:
            out.print(f"# {line}", markup=False)
    elif _was_started(directory, record, out):
        if profile is not None:
            out.print("--profile does nothing here; give it to `concord resume`, after `concord stop`")
    else:
        refuse_open_ray(machines)
        avoid = check_machines(machines, directory, out) if check_first else ()
        launcher_for(machines).check()
        record = _create_run(directory, record)
        number = _next_number(directory, machines)
        start = plan_start(number, ready, cluster, machines, avoid=avoid, take_over=False, profile=profile)
        start_driver(directory, record, start, asked)
        words = escape(command_words(directory))
        out.print(f"run [bold]{record.id}[/] submitted to {escape(cluster)}")
        for line in unused:
            out.print(escape(line))
        out.print(f"to watch it: concord status {words}   or   concord logs -f {words}")
    return record.id


def _record(ready: Prepared, run_id: str | None) -> RunRecord:
    content = content_of(ready.loaded.config)
    return RunRecord(
        id=default_id(ready.loaded.config.name, content) if run_id is None else check_id(run_id),
        key=secrets.token_hex(4),
        recipe=content,
        recipe_path=str(ready.loaded.path.absolute()),
        overrides=ready.loaded.overrides,
        directory=str(Path.cwd()),
        submitted=now(),
        user=user_name(),
        host=socket.gethostname(),
    )


def _was_started(directory: RunDirectory, record: RunRecord, out: Console) -> bool:
    """Return whether a driver of the run was started before, and if so print how the run stands."""
    existing, starts = directory.run(), directory.starts()
    if existing is not None:
        _check_same_recipe(existing, record)
    if existing is None or not starts or starts[-1].handle is None:
        return False
    status = read_status(directory)
    out.print(f"run [bold]{record.id}[/] was submitted already: {status.word}: {escape(status.detail)}")
    if not status.is_live and status.word not in ("finished", "unknown"):
        out.print(f"to go on with it: concord resume {escape(command_words(directory))}")
    return True


def _create_run(directory: RunDirectory, record: RunRecord) -> RunRecord:
    """Write the run down and return it; if another process was faster return its run, which must be of this recipe."""
    if directory.create(record):
        return record
    existing = directory.run() or record
    _check_same_recipe(existing, record)
    return existing


def _next_number(directory: RunDirectory, machines: ClusterConfig) -> int:
    """Return the number of the start to make.

    It is that of the last start, which has no driver yet, unless the cluster file has changed since.
    """
    starts = directory.starts()
    if not starts or starts[-1].cluster == machines.model_dump(mode="json"):
        return max(1, len(starts))
    return len(starts) + 1


def start_driver(directory: RunDirectory, record: RunRecord, start: StartRecord, machines: ClusterConfig) -> None:
    """Write the start down and have the launcher start its driver. The same start again gives the same driver."""
    if not directory.add_start(start):
        start = directory.starts()[start.number - 1]
        if start.handle is not None:
            return
    submission = describe_submission(directory, record, start, machines)
    submission.log.parent.mkdir(parents=True, exist_ok=True)
    directory.note_handle(start, launcher_for(machines).submit(submission))


def plan_start(
    number: int,
    ready: Prepared,
    cluster: str,
    machines: ClusterConfig,
    *,
    avoid: tuple[str, ...],
    take_over: bool,
    profile: str | None,
) -> StartRecord:
    """Return the record of a start of what was read and planned."""
    return StartRecord(
        number=number,
        cluster_name=cluster,
        cluster=machines.model_dump(mode="json"),
        artifacts={step.name: step.artifact for step in ready.plan.steps.values()},
        code=code_version(),
        packages=package_versions(),
        avoid=avoid,
        take_over=take_over,
        profile=profile,
        time=now(),
    )


def describe_submission(
    directory: RunDirectory, record: RunRecord, start: StartRecord, machines: ClusterConfig
) -> Submission:
    """Return what the launcher has to know to start the driver."""
    where = ("--store", directory.store, "--work-dir", machines.storage.work_dir)
    return Submission(
        run=record.id,
        key=record.key,
        number=start.number,
        command=("-m", "pipeline.cli", "drive", *where, "--start", str(start.number), record.id),
        code=ROOT,
        directory=Path(record.directory),
        log=directory.log_path(start.number),
        environment=_environment(machines, start.code),
        cluster=machines,
        grace_seconds=grace_seconds(machines),
    )


def check_machines(machines: ClusterConfig, directory: RunDirectory, out: Console) -> tuple[str, ...]:
    """Return the hosts that fail the quick check, to be left out. Raises UserError if none is left."""
    from cluster.doctor.examine import examine

    report = examine(machines, store=directory.home, quick=True)
    for line in report.failures():
        out.print(f"check: {escape(line)}")
    report.raise_if_hopeless()
    return tuple(sorted(report.failing_hosts))


def content_of(config: RunConfig) -> dict[str, JsonValue]:
    """Return the recipe as it is written into a run: its store is a URL or an absolute path.

    Keys that a later version added are left out while they have their default, so that the run stays the same run.
    """
    return identity_of(config) | {"store": store_of(config.store)}


def default_id(name: str, content: Mapping[str, JsonValue]) -> str:
    """Return a run's id that follows from the content of its recipe, so that submitting it twice is one run."""
    identity = {key: value for key, value in content.items() if key != "store"}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{digest}"


def shown_changes(before: JsonValue, after: JsonValue) -> list[tuple[str, str, str]]:
    """Return the dotted keys whose values differ, with both values as they are shown; `absent` stands for none."""
    return [
        (change.key, shorten(str(change.before), _MAX_CHARACTERS), shorten(str(change.after), _MAX_CHARACTERS))
        for change in diff(before, after, whole=True)
    ]


def _check_same_recipe(existing: RunRecord, wanted: RunRecord) -> None:
    if differing := shown_changes(existing.recipe, wanted.recipe):
        key, old, new = differing[0]
        raise UserError(
            f"run {existing.id} is there already with another recipe: {key} is {old} in it, and {new} in this one; "
            "give this one another --id"
        )


def _environment(machines: ClusterConfig, code: str) -> dict[str, str]:
    passed = {name: os.environ[name] for name in machines.pass_environment if name in os.environ}
    return {**machines.environment, **passed, CODE: code, "PYTHONUNBUFFERED": "1"}


def command_words(directory: RunDirectory) -> str:
    """Return the words by which a command finds the run from this directory, quoted for a shell."""
    here = directory.store == str(Path("store").absolute())
    return directory.id if here else f"{directory.id} --store {shlex.quote(directory.store)}"


def _check_shared(store: str) -> None:
    if urlsplit(store).scheme == "memory":
        raise UserError(
            f"the store {store} is in the memory of this process, where no driver can reach it; give another with "
            "--set store=DIR, or use `concord run`"
        )
