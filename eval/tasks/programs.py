"""Tasks that a program answers, in an environment of its own, given a Hugging Face directory of the model.

So tools whose packages do not fit with ours can be used: they have to write answers that are read here.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.host.programs import run_program
from configs.base import UserError
from configs.tasks import TaskConfig
from configs.text import one_line
from eval.tasks.answers import Answers, read_answers
from eval.tasks.task import Task

_HIT = 0.5
"""The score of a detector of garak's from which on an output is a hit."""

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""How inspect writes correct, partial, incorrect, and no answer."""

ANSWERS = "answers.jsonl"
"""The file, below the program's directory, that a program of no known tool writes its answers into."""


def answer_by_program(task: Task, write_model: Callable[[Path], Path], *, limit: int | None) -> Answers:
    """Return what the task's program wrote of a model.

    `write_model` writes the model into a directory that it is given, or returns where it is. Raises UserError if the
    program fails, does not end in time, or leaves nothing that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="concord-task-") as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        model = write_model(Path(scratch) / "model")
        places = {"{model}": str(model), "{out}": str(out)}
        command = [_filled(part, places) for part in task.command]
        # no bytes of ours are in its way: its own interpreter and packages
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        done = run_program(command, timeout_seconds=task.timeout_hours * 3600, environment=environment)
        if not done.ok:
            told = done.last_line[:300]
            if done.exit_code is not None:
                told = f"`{Path(command[0]).name}` ended with code {done.exit_code}: {told}"
            raise UserError(told)
        rows = _chosen(task, _READERS[task.reads](out))
        return read_answers(task, rows, where=f"what `{Path(command[0]).name}` wrote", limit=limit)


def _filled(part: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        part = part.replace(name, value)
    return part


def _chosen(task: Task, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the answers of the detector or scorer that the task names as its metric; all if it names none."""
    found = list(rows)
    if task.reads == "answers" or task.metric in (None, TaskConfig.model_fields["metric"].default):
        return found
    if not (chosen := [row for row in found if row["scorer"] == task.metric]):
        names = ", ".join(sorted({row["scorer"] for row in found})) or "none"
        raise UserError(f"{task.reads} has no answer of {task.metric!r}, the task's metric; it has some of: {names}")
    return chosen


def _read_own(out: Path) -> Iterator[Mapping[str, Any]]:
    path = out / ANSWERS
    if not path.is_file():
        raise UserError(f"it wrote no {ANSWERS} into the directory {{out}}; have it write a JSON object a question")
    yield from _lines(path)


def _read_garak(out: Path) -> Iterator[Mapping[str, Any]]:
    """Yield an answer for each output that a detector of garak's looked at: 1 where it found nothing wrong.

    Outputs for one prompt are no independent observations. Garak's exit code says nothing, but a report that it ended
    well has a line `completion`.
    """
    reports = [list(_lines(path)) for path in sorted(out.rglob("*.report.jsonl"))]
    if not reports or not all(any(row.get("entry_type") == "completion" for row in rows) for rows in reports):
        raise UserError("garak wrote no whole report below the directory {out}; see its log, and set --report_prefix")
    for row in (row for rows in reports for row in rows):
        if row.get("entry_type") != "attempt" or row.get("status") != 2:  # each is there once before it was judged
            continue
        for detector, scores in row["detector_results"].items():
            for number, (score, output) in enumerate(zip(scores, row["outputs"], strict=True)):
                if score is not None and output is not None:
                    question = f"{row['probe_classname']}/{detector}/{row['seq']}/{number}"
                    known = {"question": question, "scorer": detector, "cluster": str(row["uuid"])}
                    yield known | {"value": float(score < _HIT)}


def _read_inspect(out: Path) -> Iterator[Mapping[str, Any]]:
    """Yield an answer for each sample and scorer of inspect's logs: C and P count 1 and a half, I and N nothing.

    Inspect's exit code says nothing, but its logs do.
    """
    for path in sorted(out.rglob("*.json")):
        log = json.loads(path.read_text(encoding="utf-8"))
        if log.get("status") != "success":
            raise UserError(f"inspect's log says {log.get('status')!r}: {_reason(log)}")
        done, asked = (log.get("results", {}).get(key) for key in ("completed_samples", "total_samples"))
        if done != asked:
            raise UserError(f"inspect scored {done} of {asked} samples; leave out --no-fail-on-error to see why")
        for sample in log.get("samples") or []:
            for scorer, score in (sample.get("scores") or {}).items():
                value = score.get("value")
                yield {
                    "question": f"{log['eval']['task']}/{scorer}/{sample['id']}/{sample.get('epoch', 1)}",
                    "value": _LETTERS.get(value, value) if isinstance(value, str) else value,
                    "scorer": scorer,
                    "cluster": str(sample["id"]),
                }


def _reason(log: Mapping[str, Any]) -> str:
    return one_line((log.get("error") or {}).get("message", "it does not say why"))[:200]


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path.name}:{number} is no JSON ({error}); write an object a line") from None


_READERS: Mapping[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
    "answers": _read_own,
    "garak": _read_garak,
    "inspect": _read_inspect,
}
