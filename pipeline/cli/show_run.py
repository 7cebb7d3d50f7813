"""Showing runs: one as a page that keeps up, or all as a list."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.ray.quarantine import NodeFailures
from configs.base import InfrastructureError, UserError
from pipeline.cli.status import step_state
from pipeline.graph.plan import PlannedStep
from pipeline.runs.directory import RunDirectory, now, open_run, run_ids
from pipeline.runs.recorded import outputs_of, steps_of
from pipeline.runs.records import AttemptRecord
from pipeline.runs.state import RunState, state_of
from pipeline.runs.submit import words_for
from pipeline.store.lineage import duration, render_lineage

SECONDS_BETWEEN_PAGES = 1.0
_MAX_ATTEMPTS = 8
_WIDTH = 300
"""Of a list that is no terminal's: a line a run."""


def show_run(directory: RunDirectory, out: Console, *, live: bool, as_json: bool) -> None:
    """How the run stands: once, or on a terminal until it has ended."""
    if as_json:
        print(json.dumps(_as_json(directory)))
        return
    steps = steps_of(directory)
    if not (live and out.is_terminal and state_of(directory).live):
        out.print(_page(directory, steps))
        return
    with Live(console=out, auto_refresh=False, screen=False) as screen:
        while True:
            state = state_of(directory)
            screen.update(_page(directory, steps), refresh=True)
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
        table.add_row(*map(escape, _row(store, run_id)))
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    out.print(table)


def show_run_lineage(directory: RunDirectory, out: Console) -> None:
    """What each of the run's wanted artifacts was made from."""
    for name, artifact in outputs_of(directory).items():
        if not directory.has(artifact):
            raise UserError(
                f"{artifact} of step {name!r} of run {directory.id} is not made yet, or no longer in the store; see "
                f"`concord status {words_for(directory)}`"
            )
        out.print(render_lineage(directory.home / artifact, directory.remote), markup=False)


def _row(store: str, run_id: str) -> tuple[str, ...]:
    """Of the list. A run whose records cannot be read does not keep the others from being shown."""
    try:
        directory = open_run(store, run_id)
        run, starts, state = directory.run(), directory.starts(), state_of(directory)
        assert run is not None
        cluster = starts[-1].cluster_name if starts else ""
        return run_id, state.word, str(len(directory.attempts())), cluster, _when(run.submitted), state.detail
    except InfrastructureError:
        raise
    except UserError as error:
        return run_id, "unreadable", "", "", "", str(error)


def _page(directory: RunDirectory, steps: Sequence[PlannedStep]) -> RenderableType:
    return Group(*(Text.from_markup(line) for line in _lines(directory, steps)))


def _lines(directory: RunDirectory, steps: Sequence[PlannedStep]) -> Iterator[str]:
    state, starts, attempts = state_of(directory), directory.starts(), directory.attempts()
    where = f" on {starts[-1].cluster_name}" if starts else ""
    yield f"run [bold]{directory.id}[/]{escape(where)}: [bold]{state.word}[/]  [dim]{escape(state.detail)}[/]"
    for attempt in attempts[-_MAX_ATTEMPTS:]:
        yield f"  [dim]attempt {attempt.number:<5}[/]  {escape(_attempt_line(attempt, state))}"
    if avoided := sorted(NodeFailures(directory.path / "node-failures.jsonl").avoided()):
        yield f"  [dim]avoided      [/]  {escape(', '.join(avoided))}, which failed twice"
    for step in steps:
        word, rows = step_state(step, directory.home, directory.remote)
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
    state, steps = state_of(directory), {}
    for step in steps_of(directory):
        word, rows = step_state(step, directory.home, directory.remote)
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
