"""The ledger of a training's checkpoints: what each scored in each task, or why it could not be scored.

It is a file of JSON lines, `ledger.jsonl`, that only grows. A checkpoint is known by its step and the checksum of its
record, so one that is made again after a roll-back is scored again. All rows of one are added in one write; if that is
cut short by a kill, none of them counts.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.host.files import write_text
from eval.manifests import BitsPerByte, CheckpointScores, TaskScore, mean_scores
from eval.tasks.task import BITS_PER_BYTE
from training.records import CheckpointKey, CheckpointRecord

LEDGER = "ledger.jsonl"


Checkpoint = CheckpointRecord | CheckpointKey


class Ledger:
    """The ledger of an artifact's directory, which may hold one that was begun before."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LEDGER
        self._rows: list[dict[str, Any]] = []
        if self._path.exists():
            self._rows = _whole_rows(self._path)
            write_text(self._path, _lines(self._rows))
        self._known = {(row["step"], row["checkpoint"]) for row in self._rows}

    def has(self, record: Checkpoint) -> bool:
        """Return whether a checkpoint is in it, scored or failed."""
        return (record.step, record.checksum) in self._known

    def add(
        self,
        record: Checkpoint,
        bits: Mapping[str, BitsPerByte],
        tasks: Iterable[TaskScore],
        *,
        started: float,
    ) -> None:
        """Write down what a checkpoint scored: a row for each language's bits per byte, and for each task."""
        rows: list[dict[str, Any]] = [
            {"task": BITS_PER_BYTE, "language": language, **one.model_dump(mode="json")}
            for language, one in bits.items()
        ]
        self._append(record, [*rows, *(task.model_dump(mode="json") for task in tasks)], started)

    def add_failure(self, record: Checkpoint, reason: str, *, started: float) -> None:
        """Write down why a checkpoint could not be scored."""
        self._append(record, [{"task": "", "language": "und", "failure": reason}], started)

    def curve(self) -> tuple[CheckpointScores, ...]:
        """Return the checkpoints in the order of their steps; of those of one step the last that was scored."""
        by_step: dict[int, list[dict[str, Any]]] = {}
        for row in self._rows:
            own = by_step.setdefault(row["step"], [])
            is_other = bool(own) and own[0]["checkpoint"] != row["checkpoint"]
            if is_other and row["task"] == "" and own[0]["task"] != "":
                continue  # another checkpoint of the step was scored
            if is_other:
                own.clear()
            own.append(row)
        return tuple(_scores_of(step, rows) for step, rows in sorted(by_step.items()))

    def _append(self, record: Checkpoint, rows: list[dict[str, Any]], started: float) -> None:
        known: dict[str, Any] = {"step": record.step, "checkpoint": record.checksum, "num_tokens": record.num_tokens}
        times = {"started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")}
        added = [known | times | {"num_rows": len(rows)} | row for row in rows]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_lines(added))
            file.flush()
            os.fsync(file.fileno())
        self._rows += added
        self._known.add((record.step, record.checksum))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the checkpoints of which all rows are there."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        with suppress(ValueError):  # the last one, cut short by a kill
            rows.append(json.loads(line))
    counts = Counter((row["step"], row["checkpoint"]) for row in rows)
    return [row for row in rows if counts[row["step"], row["checkpoint"]] == row.get("num_rows")]


def _scores_of(step: int, rows: list[dict[str, Any]]) -> CheckpointScores:
    bits = {row["language"]: row["bits_per_byte"] for row in rows if row["task"] == BITS_PER_BYTE}
    names = TaskScore.model_fields.keys()
    tasks = tuple(
        TaskScore.model_validate({name: row[name] for name in names})
        for row in rows
        if row["task"] not in ("", BITS_PER_BYTE)
    )
    means = mean_scores(tasks)
    return CheckpointScores(
        step=step,
        num_tokens=rows[0]["num_tokens"],
        bits_per_byte=bits,
        tasks={name: value for name, (value, _, _) in means.items()},
        num_languages={name: number for name, (_, _, number) in means.items()},
        failed={one.task: one.failure for one in tasks if one.failure},
        failure=next((row["failure"] for row in rows if row["task"] == ""), ""),
    )
