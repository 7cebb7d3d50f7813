"""The source `csv`: delimited text with a header row, after RFC 4180."""

import csv
import sys
from collections import deque
from collections.abc import Iterator

from pydantic import JsonValue

from configs.base import MIB, UserError
from configs.data.sources import CsvSource
from data_prep.sources.content import split_lines
from data_prep.sources.document import Digest, Entry, Opened, Span, Unreadable
from data_prep.sources.file_parts import TextFile, explain_damage, open_files
from data_prep.sources.listing import digest_files, list_files
from data_prep.sources.record_fields import check_columns, to_document

MAX_CHARACTERS_AGAIN = 128 * MIB
"""In a file of which more characters are read again after quotation marks too many, these pair nowhere."""

MAX_ROW_CHARACTERS = 16 * MIB
"""A row that is longer is taken for one whose quotation mark is never closed."""


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
        yield Opened(file.name)
        with explain_damage(config.name, span.name) as progress:
            rows = _Rows(file, config.delimiter)
            header = next(rows, None)
            if header is None:
                continue
            if isinstance(header, str):
                raise UserError(f"source '{config.name}': the header of {file.name} cannot be read ({header})")
            check_columns(config, file.name, header)
            try:
                for row in rows:
                    progress.number = rows.last_line
                    yield _to_entry(config, header, row, file.name, rows)
            except _Unpaired as error:
                raise UserError(
                    f"source '{config.name}': {file.name} has quotation marks that do not pair in many rows, up to "
                    f"line {rows.last_line}; is it CSV as in RFC 4180?"
                ) from error


class _Unpaired(Exception):
    """Quotation marks pair in so few rows that to look for the others takes too long."""


class _Rows:
    """The rows of a file that are not blank, each a list, or the reason why it cannot be read.

    Where a row cannot be read, its first line alone is given up: a quotation mark too many takes all lines up to the
    next one along.
    """

    def __init__(self, file: TextFile, delimiter: str) -> None:
        # What is not UTF-8 becomes half of a surrogate pair, which its row is told by.
        self._lines = (line.decode(errors="surrogateescape") + "\n" for line in split_lines(file.chunks))
        self._again = deque[str]()
        """Lines that have been read and given back."""

        self._taken: list[str] = []
        """Lines of the row that is read now."""

        self._characters_again = MAX_CHARACTERS_AGAIN
        """How many may still be read again."""

        self._delimiter = delimiter
        self._reader = self._begin()
        self.first_line, self.last_line = 1, 0
        """Lines of the row that was read last."""

    def _begin(self) -> Iterator[list[str]]:
        return csv.reader(self._feed(), delimiter=self._delimiter, strict=True)

    def _feed(self) -> Iterator[str]:
        num_characters = 0
        while (line := self._again.popleft() if self._again else next(self._lines, None)) is not None:
            num_characters = num_characters + len(line) if self._taken else len(line)
            if num_characters > MAX_ROW_CHARACTERS and self._taken:
                self._taken.append(line)
                raise csv.Error(f"no end within {MAX_ROW_CHARACTERS // MIB} MiB; is a quotation mark not closed?")
            self._taken.append(line)
            yield line

    def __iter__(self) -> Iterator[list[str] | str]:
        return self

    def __next__(self) -> list[str] | str:
        row: list[str] | str = []
        while not row:
            self._taken.clear()
            self.first_line = self.last_line + 1
            try:
                row = next(self._reader)
            except csv.Error as error:
                self._characters_again -= sum(map(len, self._taken[1:]))
                if self._characters_again < 0:
                    raise _Unpaired from error
                self._again.extendleft(reversed(self._taken[1:]))
                del self._taken[1:]
                self._reader = self._begin()
                row = str(error)
            self.last_line += len(self._taken)
        return row


def _to_entry(config: CsvSource, header: list[str], row: list[str] | str, name: str, rows: _Rows) -> Entry:
    where = f"{name}:{rows.last_line}"
    if isinstance(row, str):
        return Unreadable(where, "invalid_csv", row)
    if len(row) != len(header):
        lines = f" in lines {rows.first_line} to {rows.last_line}" if rows.first_line < rows.last_line else ""
        return Unreadable(where, "bad_columns", f"{len(row)} values for {len(header)} columns{lines}")
    return to_document(config, dict(zip(header, row, strict=True)), where)
