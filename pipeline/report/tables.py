"""What the parts of the page share: tables, and rows in columns."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue

from pipeline.graph.config_diff import flatten

T = TypeVar("T")

HIGHEST_LEVEL = 6
"""The strongest colour of a heat map: `style.css` has one for each level from 0."""

NOTHING = "\u2013"
"""An en dash, where there is no number to show."""


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row is its heading; the first `num_text` columns are text, the others numbers."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()
    num_text: int = 1
    levels: Sequence[Sequence[int | None]] = ()
    """For a heat map: of each row the level of every cell but the first, 0 to HIGHEST_LEVEL; None has no colour."""

    sorted_by: tuple[int, Literal["ascending", "descending"]] | None = None
    """The column, counted from 0, that the rows are in the order of, if they are."""


def split(rows: Sequence[T], *, max_columns: int = 3, most: int = 12) -> list[Sequence[T]]:
    """Divide rows into runs of equal length, but for one row, to be side by side.

    A run has at most `most` rows, unless there are more than fit `max_columns` such runs.
    """
    num_runs = min(max_columns, -(-len(rows) // most))
    ends = [-(-len(rows) * run // num_runs) for run in range(1, num_runs + 1)]
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def without_places(text: str) -> str:
    """Return a text whose paths under the working directory are relative to it, and else under the home begin `~/`."""
    for directory, short in ((Path.cwd(), ""), (Path(os.path.expanduser("~")), "~/")):
        if directory != Path(directory.root):
            text = re.sub(rf"(?<![\w./~-]){re.escape(str(directory))}/", short, text)
    return text


def settings_rows(settings: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """Return nested settings as dotted keys and values, as `--set` takes them; null and empty ones are left out."""
    shown = ((key, value) for key, value in flatten(settings) if value is not None and value not in ({}, []))
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for key, value in shown]
