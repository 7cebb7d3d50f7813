"""The ledger of a training's checkpoints: what each scored in each task, or why it could not be scored.

It is a file of JSON lines, `ledger.jsonl`, that only grows. A checkpoint is known by its step and the checksum of its
record, so one that is made again after a roll-back is scored again; all rows of one are written at once.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.host.files import write_text
from eval.manifests import BitsPerByte, CheckpointScores, TaskScore, mean_scores
from training.records import CheckpointRecord

LEDGER = "ledger.jsonl"
BITS_PER_BYTE = "bits_per_byte"


class Ledger:
    """The ledger of an artifact's directory, which may hold one that was begun before."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LEDGER
        self._rows: list[dict[str, Any]] = []
        if self._path.exists():
            self._rows = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]

    def has(self, record: CheckpointRecord) -> bool:
        """Return whether a checkpoint is in it, scored or failed."""
        return any((row["step"], row["checkpoint"]) == (record.step, record.checksum) for row in self._rows)

    def add(
        self,
        record: CheckpointRecord,
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

    def add_failure(self, record: CheckpointRecord, reason: str, *, started: float) -> None:
        """Write down why a checkpoint could not be scored."""
        self._append(record, [{"task": "", "language": "und", "failure": reason}], started)

    def curve(self) -> tuple[CheckpointScores, ...]:
        """Return the checkpoints in the order of their steps; of those of one step the last that was scored."""
        by_step: dict[int, list[dict[str, Any]]] = {}
        for row in self._rows:
            own = by_step.setdefault(row["step"], [])
            if own and own[0]["checkpoint"] != row["checkpoint"]:
                own.clear()
            own.append(row)
        return tuple(_scores_of(step, rows) for step, rows in sorted(by_step.items()))

    def _append(self, record: CheckpointRecord, rows: list[dict[str, Any]], started: float) -> None:
        known = {"step": record.step, "checkpoint": record.checksum, "num_tokens": record.num_tokens}
        times = {"started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")}
        self._rows += [known | times | row for row in rows]
        write_text(self._path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self._rows))


def _scores_of(step: int, rows: list[dict[str, Any]]) -> CheckpointScores:
    bits = {row["language"]: row["bits_per_byte"] for row in rows if row["task"] == BITS_PER_BYTE}
    names = TaskScore.model_fields.keys()
    tasks = tuple(
        TaskScore.model_validate({name: row[name] for name in names})
        for row in rows
        if row["task"] not in ("", BITS_PER_BYTE)
    )
    return CheckpointScores(
        step=step,
        num_tokens=rows[0]["num_tokens"],
        bits_per_byte=bits,
        tasks={name: value for name, (value, _, _) in mean_scores(tasks).items()},
        failure=next((row["failure"] for row in rows if row["task"] == ""), ""),
    )
