"""Starting the driver of a run: for the first time, or again."""

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
from cluster.launch.launcher import Submission
from cluster.launch.table import launcher_for
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.load import load, shipped
from configs.run import RunConfig
from pipeline.prepare import Prepared, check_pools, prepare
from pipeline.runs.differences import changed
from pipeline.runs.directory import RunDirectory, check_id, now, store_of, user
from pipeline.runs.driver import grace_seconds
from pipeline.runs.records import RunRecord, StartRecord
from pipeline.runs.state import state_of
from pipeline.store.provenance import CODE, code_version, package_versions

_ROOT = Path(__file__).parents[2]
MAX_NAME = 100
"""Characters of a run's id (configs/base.py)."""


def submit(
    recipe: Path,
    cluster: str,
    overrides: tuple[str, ...],
    out: Console,
    *,
    run_id: str | None,
    check_first: bool,
    dry_run: bool,
) -> str:
    """Start the recipe's run and return its id at once; if it was submitted before, say how it stands instead."""
    machines = load(shipped("clusters", cluster), ClusterConfig).config
    ready = prepare(recipe, overrides, machines.storage)
    check_pools(ready, machines, cluster)
    _check_shared(ready.loaded.config.store)
    record = _record(recipe, ready, overrides, run_id)
    directory = RunDirectory(store_of(ready.loaded.config.store), record.id, work_dir=machines.storage.work_dir)
    if dry_run:
        start = plan_start(1, ready, cluster, machines, avoid=(), take_over=False)
        out.print(launcher_for(machines).render(submission_of(directory, record, start, machines)), markup=False)
    elif not _is_there(directory, record, out):
        refuse_open_ray(machines)
        avoid = check_machines(machines, directory, out) if check_first else ()
        launcher_for(machines).check()
        record = _create(directory, record)
        start = plan_start(_next_number(directory, machines), ready, cluster, machines, avoid=avoid, take_over=False)
        begin(directory, record, start, machines)
        words = escape(words_for(directory))
        out.print(f"run [bold]{record.id}[/] submitted to {escape(cluster)}")
        out.print(f"to watch it: concord status {words}   or   concord logs -f {words}")
    return record.id


def _record(recipe: Path, ready: Prepared, overrides: tuple[str, ...], run_id: str | None) -> RunRecord:
    """What is submitted."""
    content = content_of(ready.loaded.config)
    return RunRecord(
        id=default_id(ready.loaded.config.name, content) if run_id is None else check_id(run_id),
        key=secrets.token_hex(4),
        recipe=content,
        recipe_path=str(shipped("recipes", str(recipe)).absolute()),
        overrides=overrides,
        directory=str(Path.cwd()),
        submitted=now(),
        user=user(),
        host=socket.gethostname(),
    )


def _is_there(directory: RunDirectory, record: RunRecord, out: Console) -> bool:
    """Whether a driver of the run was started before; then say how the run stands."""
    there, starts = directory.run(), directory.starts()
    if there is not None:
        _check_same(there, record)
    if there is None or not starts or starts[-1].handle is None:
        return False
    state = state_of(directory)
    out.print(f"run [bold]{record.id}[/] was submitted already: {state.word}: {escape(state.detail)}")
    if not state.live and state.word not in ("finished", "unknown"):
        out.print(f"to go on with it: concord resume {escape(words_for(directory))}")
    return True


def _create(directory: RunDirectory, record: RunRecord) -> RunRecord:
    """Write the run down; if somebody was faster, theirs, which has to be the same."""
    if directory.create(record):
        return record
    there = directory.run() or record
    _check_same(there, record)
    return there


def _next_number(directory: RunDirectory, machines: ClusterConfig) -> int:
    """The number of a start that no driver was begun for yet: the last one's, unless the cluster file was mended."""
    starts = directory.starts()
    if not starts or starts[-1].cluster == machines.model_dump(mode="json"):
        return max(1, len(starts))
    return len(starts) + 1


def begin(directory: RunDirectory, record: RunRecord, start: StartRecord, machines: ClusterConfig) -> None:
    """Start the driver. Whoever else starts the same start gets the same driver."""
    if not directory.add_start(start):
        start = directory.starts()[start.number - 1]
        if start.handle is not None:
            return
    submission = submission_of(directory, record, start, machines)
    submission.log.parent.mkdir(parents=True, exist_ok=True)
    directory.note_handle(start, launcher_for(machines).submit(submission))


def plan_start(
    number: int, ready: Prepared, cluster: str, machines: ClusterConfig, *, avoid: tuple[str, ...], take_over: bool
) -> StartRecord:
    """A start of what was read and planned."""
    return StartRecord(
        number=number,
        cluster_name=cluster,
        cluster=machines.model_dump(mode="json"),
        artifacts={step.name: step.artifact for step in ready.plan.steps.values()},
        code=code_version(),
        packages=package_versions(),
        avoid=avoid,
        take_over=take_over,
        time=now(),
    )


def submission_of(
    directory: RunDirectory, record: RunRecord, start: StartRecord, machines: ClusterConfig
) -> Submission:
    """What a launcher is told."""
    where = ("--store", directory.store, "--work-dir", machines.storage.work_dir)
    return Submission(
        run=record.id,
        key=record.key,
        number=start.number,
        command=("-m", "pipeline.cli", "drive", *where, "--start", str(start.number), record.id),
        code=_ROOT,
        directory=Path(record.directory),
        log=directory.log_of(start.number),
        environment=_environment(machines, start.code),
        cluster=machines,
        grace_seconds=grace_seconds(machines),
    )


def check_machines(machines: ClusterConfig, directory: RunDirectory, out: Console) -> tuple[str, ...]:
    """The hosts that fail the quick check, to be left out. Raises UserError if nothing is left."""
    from cluster.doctor.quick import quick_check

    report = quick_check(machines, directory.home)
    for line in report.failures():
        out.print(f"check: {escape(line)}")
    report.raise_if_hopeless()
    return tuple(sorted(report.failing_hosts))


def content_of(config: RunConfig) -> dict[str, JsonValue]:
    """The recipe as it is written into a run: with its store by an absolute path."""
    content: dict[str, JsonValue] = config.model_dump(mode="json")
    return content | {"store": store_of(config.store)}


def default_id(name: str, content: Mapping[str, JsonValue]) -> str:
    """A run's id from what its recipe says, so that submitting it twice is one run."""
    said = {key: value for key, value in content.items() if key != "store"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{digest}"


def _check_same(there: RunRecord, wanted: RunRecord) -> None:
    if differing := list(changed(there.recipe, wanted.recipe)):
        key, old, new = differing[0]
        raise UserError(
            f"run {there.id} is there already with another recipe: {key} is {old} in it, and {new} in this one; give "
            "this one another --id"
        )


def _environment(machines: ClusterConfig, code: str) -> dict[str, str]:
    passed = {name: os.environ[name] for name in machines.pass_environment if name in os.environ}
    return {**machines.environment, **passed, CODE: code, "PYTHONUNBUFFERED": "1"}


def words_for(directory: RunDirectory) -> str:
    """What a command needs to find a run from here, as a shell reads it."""
    here = directory.store == str(Path("store").absolute())
    return directory.id if here else f"{directory.id} --store {shlex.quote(directory.store)}"


def _check_shared(store: str) -> None:
    if urlsplit(store).scheme == "memory":
        raise UserError(
            f"the store {store} is in the memory of this process, where no driver can reach it; give another with "
            "--set store=DIR, or use `concord run`"
        )
