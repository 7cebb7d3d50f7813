"""`concord status RUN`, a page that keeps up with the run, and `concord ls`, the list of a store's runs."""

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
from pipeline.cli.status import step_lines, steps_as_json
from pipeline.graph.plan import PlannedStep
from pipeline.runs.directory import AttemptRecord, RunDirectory, now, open_run, run_ids
from pipeline.runs.state import LAUNCHER_SECONDS, RunStatus, read_status, steps_of
from pipeline.store.lineage import duration

SECONDS_BETWEEN_PAGES = 1.0
_MAX_ATTEMPTS = 8
_WIDTH = 300
"""Characters of a line of the list where it is not printed to a terminal, so that a run takes one line."""


def show_run(directory: RunDirectory, out: Console, *, live: bool, as_json: bool) -> None:
    """Print how the run stands: once, or on a terminal, if `live`, until it has ended."""
    if as_json:
        print(json.dumps(_as_json(directory)))
        return
    steps, status = steps_of(directory), read_status(directory)
    if not (live and out.is_terminal and status.is_live):
        out.print(_page(directory, steps, status))
        return
    with Live(console=out, auto_refresh=False, screen=False) as screen:
        while True:
            status = read_status(directory, launcher_seconds=LAUNCHER_SECONDS)
            screen.update(_page(directory, steps, status), refresh=True)
            if not status.is_live:
                return
            time.sleep(SECONDS_BETWEEN_PAGES)


def list_runs(store: str, out: Console) -> None:
    """Print a line for each run: how it stands, how many attempts it took, when it was submitted."""
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


def _row(store: str, run_id: str) -> tuple[str, ...]:
    """Return a row of the list. A run whose records cannot be read does not keep the others from being shown."""
    try:
        directory = open_run(store, run_id)
        run, starts, status = directory.run(), directory.starts(), read_status(directory)
        assert run is not None
        cluster = starts[-1].cluster_name if starts else ""
        return run_id, status.word, str(len(directory.attempts())), cluster, _when(run.submitted), status.detail
    except InfrastructureError:
        raise
    except UserError as error:
        return run_id, "unreadable", "", "", "", str(error)


def _page(directory: RunDirectory, steps: Sequence[PlannedStep], status: RunStatus) -> RenderableType:
    return Group(*(Text.from_markup(line) for line in _lines(directory, steps, status)))


def _lines(directory: RunDirectory, steps: Sequence[PlannedStep], status: RunStatus) -> Iterator[str]:
    starts, attempts = directory.starts(), directory.attempts()
    where = f" on {starts[-1].cluster_name}" if starts else ""
    yield f"run [bold]{directory.id}[/]{escape(where)}: [bold]{status.word}[/]  [dim]{escape(status.detail)}[/]"
    for attempt in attempts[-_MAX_ATTEMPTS:]:
        yield f"  [dim]attempt {attempt.number:<5}[/]  {escape(_attempt_line(attempt, status))}"
    if avoided := sorted(NodeFailures(directory.path / "node-failures.jsonl").avoided()):
        yield f"  [dim]avoided      [/]  {escape(', '.join(avoided))}, which failed twice"
    for step in steps:
        yield from step_lines(step, directory.home, directory.remote)


def _attempt_line(attempt: AttemptRecord, status: RunStatus) -> str:
    if attempt.outcome is None:
        going = status.word == "running"
        words = f"for {duration((now() - attempt.began).total_seconds())}" if going else "ended without a word"
        return f"on {attempt.host}, {words}"
    assert attempt.ended is not None
    took = duration((attempt.ended - attempt.began).total_seconds())
    said = f": {attempt.reason}" if attempt.reason else ""
    return f"on {attempt.host}, {took}, {attempt.outcome.replace('_', ' ')}{said}"


def _as_json(directory: RunDirectory) -> dict[str, object]:
    status = read_status(directory)
    return {
        "run": directory.id,
        "state": status.word,
        "detail": status.detail,
        "starts": [start.model_dump(mode="json", exclude={"cluster", "packages"}) for start in directory.starts()],
        "attempts": [attempt.model_dump(mode="json", exclude={"packages"}) for attempt in directory.attempts()],
        "steps": steps_as_json(steps_of(directory), directory.home, directory.remote),
    }


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
