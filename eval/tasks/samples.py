"""Reads the files of every single answer (eval/rows.py), for comparisons. Imports nothing heavy."""

import json
from collections import Counter
from collections.abc import Mapping
from math import isinf
from pathlib import Path
from typing import Any

from cluster.storage.errors import error_class
from configs.base import UserError
from eval.tasks.task import BITS_PER_BYTE, GENERATIONS

Answer = Mapping[str, Any]
"""A line of such a file."""

Key = tuple[str, int]
"""The digest of what was asked, and how often it was before in the same file: a question may be there twice."""

SAMPLES = "samples"
"""Directory of the answers in an artifact: `bits_per_byte.jsonl`, and a file a task."""


def list_samples(directory: Path) -> set[str]:
    """Return the names of the files of answers that an artifact has. Raises UserError if there are none."""
    names = {path.name.removesuffix(".jsonl") for path in (directory / SAMPLES).glob("*.jsonl")} - {GENERATIONS}
    if not names:
        raise UserError(
            f"{directory} has no answers (samples/*.jsonl); name the artifact of an `evaluate` step, or what `concord "
            "eval model` wrote"
        )
    return names


def read_samples(directory: Path, name: str) -> dict[Key, Answer] | None:
    """Return the answers by what identifies them; None if there is no such file.

    Raises UserError, which names the line, if one is no answer.
    """
    path = directory / SAMPLES / f"{name}.jsonl"
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise error_class(error)(f"{path} cannot be read ({error}); evaluate again") from None
    found: dict[Key, Answer] = {}
    times: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if line:
            row = _read(line, f"{path}:{number}", is_document=name == BITS_PER_BYTE)
            asked = row["digest" if name == BITS_PER_BYTE else "question"]
            found[asked, times[asked]] = row
            times[asked] += 1
    return found


def value_of(row: Answer) -> float:
    """Return what an answer is worth: its score, or the nats of a text."""
    return float(row["nats"] if "nats" in row else row["value"])


def _read(line: str, where: str, *, is_document: bool) -> Answer:
    """Return the answer of a line. Raises UserError, which begins with `where`, if it is none."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} cannot be read as JSON ({error}); evaluate again") from None
    asked, value, size = ("digest", "nats", "num_bytes") if is_document else ("question", "value", "weight")
    if not isinstance(row, dict):
        raise UserError(f"{where} is no answer but {line[:40]!r}; evaluate again")
    for key in (asked, "language"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: {key} is {row.get(key)!r} where a text is wanted; evaluate again")
    for key in (value, size):
        if isinstance(row.get(key), bool) or not isinstance(row.get(key), int | float):
            raise UserError(f"{where}: {key} is {row.get(key)!r} where a number is wanted; evaluate again")
    if not row[size] > 0 or isinf(row[size]):
        raise UserError(f"{where}: {size} is {row[size]!r} and has to be above 0; evaluate again")
    return row
