"""The source `csv`: delimited text with a header row, after RFC 4180."""

import csv
import sys
from collections.abc import Iterator

from pydantic import JsonValue

from configs.base import UserError
from configs.data.sources import CsvSource
from data_prep.sources.content import split_lines
from data_prep.sources.document import Digest, Entry, Span, Unreadable
from data_prep.sources.file_parts import TextFile, digest_files, explain_damage, list_files, open_files
from data_prep.sources.record_fields import check_columns, to_document


def spans(config: CsvSource) -> tuple[Span, ...]:
    """Return the files, each once. A value may hold line ends, so a file is read from its beginning."""
    return list_files(config)


def identity(config: CsvSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: CsvSource, span: Span) -> Iterator[Entry]:
    """Yield the rows of a file, numbered by the line that they end on. Raises UserError if a column is missing."""
    csv.field_size_limit(sys.maxsize)
    for file in open_files(config.name, span):
        with explain_damage(config.name, span.name) as progress:
            rows = csv.reader(_lines(file), delimiter=config.delimiter, strict=True)
            header = _read_header(config, file.name, rows)
            while (row := _next(rows)) is not None:
                progress.number = rows.line_num
                yield _to_entry(config, header, row, f"{file.name}:{rows.line_num}")


def _lines(file: TextFile) -> Iterator[str]:
    """Yield the lines with their ends. What is not UTF-8 becomes half of a surrogate pair, which its row is told by."""
    return (line.decode(errors="surrogateescape") + "\n" for line in split_lines(file.chunks))


def _read_header(config: CsvSource, name: str, rows: Iterator[list[str]]) -> list[str]:
    header = _next(rows)
    if header is None:
        return []
    if isinstance(header, str):
        raise UserError(f"source '{config.name}': the header of {name} cannot be read ({header}); is it CSV?")
    check_columns(config, name, header)
    return header


def _next(rows: Iterator[list[str]]) -> list[str] | str | None:
    """Return the next row, or why it cannot be read; None at the end. Blank lines are no rows."""
    try:
        return next((row for row in rows if row), None)
    except csv.Error as error:
        return str(error)


def _to_entry(config: CsvSource, header: list[str], row: list[str] | str, where: str) -> Entry:
    if isinstance(row, str):
        return Unreadable(where, "invalid_csv", row)
    if len(row) != len(header):
        return Unreadable(where, "bad_columns", f"{len(row)} values for {len(header)} columns")
    return to_document(config, dict(zip(header, row, strict=True)), where)
