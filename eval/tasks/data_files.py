"""Reads the questions of a task from a file of this machine's disks."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.base import UserError


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a file. Raises UserError if it has none."""
    if not (rows := _read(path, columns)):
        raise UserError(f"{path} has no rows; put the data there again")
    return rows


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a file: JSON lines, CSV, TSV or Parquet. Raises UserError if it cannot be read."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "parquet":
            import pyarrow.parquet

            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            return rows
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            if kind == "csv":
                return list(csv.DictReader(file, fieldnames=[*columns] or None))
            if kind == "tsv":
                return list(csv.DictReader(file, [*columns] or None, delimiter="\t", quoting=csv.QUOTE_NONE))
            return [json.loads(line) for line in file if line.strip()]
    except (ValueError, OSError, EOFError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {kind}: {error}") from None
