"""Showing runs: one as a page that keeps up, or all as a list."""

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.quarantine import NodeFailures
from configs.base import UserError
from configs.cluster import StorageConfig
from pipeline.commands import prepare
from pipeline.lineage import duration, render_lineage
from pipeline.plan import Plan
from pipeline.runs.attempt import write_recipe
from pipeline.runs.directory import RunDirectory, now, open_run, run_ids
from pipeline.runs.records import AttemptRecord
from pipeline.runs.state import RunState, state_of
from pipeline.status import step_state

SECONDS_BETWEEN_PAGES = 1.0
_MAX_ATTEMPTS = 8
_WIDTH = 300
"""Of a list that is no terminal's: a line a run."""


def show_run(directory: RunDirectory, out: Console, *, live: bool, as_json: bool) -> None:
    """How the run stands: once, or on a terminal until it has ended."""
    if as_json:
        print(json.dumps(_as_json(directory)))
        return
    plan = _plan(directory)
    if not (live and out.is_terminal and state_of(directory).live):
        out.print(_page(directory, plan))
        return
    with Live(console=out, auto_refresh=False, screen=False) as screen:
        while True:
            state = state_of(directory)
            screen.update(_page(directory, plan), refresh=True)
            if not state.live:
                return
            time.sleep(SECONDS_BETWEEN_PAGES)


def list_runs(store: str, out: Console) -> None:
    """A line a run: how it stands, how often it was begun, when it was submitted."""
    ids = run_ids(store)
    if not ids:
        out.print(f"no runs in {escape(store)}; `concord submit RECIPE --cluster NAME` starts one")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "state", "attempts", "cluster", "submitted", ""):
        table.add_column(name, overflow="fold")
    for run_id in ids:
        directory = open_run(store, run_id)
        run, starts, state = directory.run(), directory.starts(), state_of(directory)
        assert run is not None
        cluster = starts[-1].cluster_name if starts else ""
        attempts = str(len(directory.attempts()))
        row = run_id, state.word, attempts, cluster, _when(run.submitted), state.detail
        table.add_row(*map(escape, row))
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    out.print(table)


def show_run_lineage(directory: RunDirectory, out: Console) -> None:
    """What each of the run's wanted artifacts was made from."""
    plan = _plan(directory)
    for name in plan.outputs:
        artifact = directory.home / plan.steps[name].artifact
        if not artifact.exists():
            raise UserError(f"step {name!r} of run {directory.id} is not made yet; see `concord status {directory.id}`")
        out.print(render_lineage(artifact), markup=False)


def _plan(directory: RunDirectory) -> Plan:
    """Of the recipe that was submitted. The sources are looked at from where it was submitted from."""
    run = directory.run()
    assert run is not None
    here = Path.cwd()
    path = write_recipe(directory).absolute()
    try:
        os.chdir(run.directory)
        return prepare(path, (), StorageConfig(work_dir=directory.work_dir)).plan
    except FileNotFoundError:
        raise UserError(
            f"{run.directory}, where run {run.id} was submitted from, is not on this machine; ask on one that has it"
        ) from None
    finally:
        os.chdir(here)


def _page(directory: RunDirectory, plan: Plan) -> RenderableType:
    return Group(*(Text.from_markup(line) for line in _lines(directory, plan)))


def _lines(directory: RunDirectory, plan: Plan) -> Iterator[str]:
    state, starts, attempts = state_of(directory), directory.starts(), directory.attempts()
    where = f" on {starts[-1].cluster_name}" if starts else ""
    yield f"run [bold]{directory.id}[/]{escape(where)}: [bold]{state.word}[/]  [dim]{escape(state.detail)}[/]"
    for attempt in attempts[-_MAX_ATTEMPTS:]:
        yield f"  [dim]attempt {attempt.number:<5}[/]  {escape(_attempt_line(attempt, state))}"
    if avoided := sorted(NodeFailures(directory.path / "node-failures.jsonl").avoided()):
        yield f"  [dim]avoided      [/]  {escape(', '.join(avoided))}, which failed twice"
    for step in plan.steps.values():
        word, rows = step_state(step, directory.home)
        yield f"[bold]{step.name}[/]  {escape(word)}  [dim]{step.artifact}[/]"
        for name, value in rows:
            yield f"  [dim]{name:<13}[/]  {escape(value)}"


def _attempt_line(attempt: AttemptRecord, state: RunState) -> str:
    if attempt.outcome is None:
        going = state.word == "running"
        words = f"for {duration((now() - attempt.began).total_seconds())}" if going else "ended without a word"
        return f"on {attempt.host}, {words}"
    assert attempt.ended is not None
    took = duration((attempt.ended - attempt.began).total_seconds())
    said = f": {attempt.reason}" if attempt.reason else ""
    return f"on {attempt.host}, {took}, {attempt.outcome.replace('_', ' ')}{said}"


def _as_json(directory: RunDirectory) -> dict[str, object]:
    state, plan = state_of(directory), _plan(directory)
    steps = {}
    for step in plan.steps.values():
        word, rows = step_state(step, directory.home)
        steps[step.name] = {"artifact": step.artifact, "state": word} | dict(rows)
    return {
        "run": directory.id,
        "state": state.word,
        "detail": state.detail,
        "starts": [start.model_dump(mode="json", exclude={"cluster", "packages"}) for start in directory.starts()],
        "attempts": [attempt.model_dump(mode="json", exclude={"packages"}) for attempt in directory.attempts()],
        "steps": steps,
    }


def _when(time_: datetime) -> str:
    return f"{time_:%Y-%m-%d %H:%M} UTC"
