"""The source `json_lines`: one JSON object a line, in plain or compressed files."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from pydantic import JsonValue

from configs.base import UserError
from configs.data.sources import JsonLinesSource
from data_prep.sources.document import Digest, Entry, LineCut, Opened, Span, Unreadable
from data_prep.sources.file_parts import find_first_line, read_lines, split_by_lines
from data_prep.sources.listing import digest_files, list_files
from data_prep.sources.record_fields import to_document

_LONG_NUMBER = re.compile(rb"\d{19}")
"""What orjson may round to a float: digits of an integer beyond 64 bits."""


def spans(config: JsonLinesSource) -> tuple[Span, ...]:
    """Return the files, each once."""
    return list_files(config)


def split(config: JsonLinesSource, span: Span, num_bytes: int) -> tuple[Span, ...]:
    """Cut a plain file into ranges of bytes."""
    return split_by_lines(config, span, num_bytes)


def cut(config: JsonLinesSource, span: Span) -> LineCut:
    """Find the first line of a range."""
    return find_first_line(config, span)


def identity(config: JsonLinesSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: JsonLinesSource, span: Span) -> Iterator[Entry]:
    """Yield the records of a span; a record's number is its line, and blank lines are skipped.

    Raises UserError if the file is one JSON array or object on many lines.
    """
    keeps_numbers = config.id_field is not None or bool(config.metadata_fields)
    for name, lines in read_lines(config.name, span):
        yield Opened(name)
        for number, line in _check_layout(config, name, lines):
            slowly = keeps_numbers and _LONG_NUMBER.search(line)
            record = _parse_slowly(line) if slowly else _parse(line)
            where = f"{name}:{number}"
            yield Unreadable(where, record) if isinstance(record, str) else to_document(config, record, where)


def _parse(line: bytes) -> dict[str, Any] | str:
    """Return the object on a line, or the reason why there is none."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:  # also of what json takes: NaN, half a surrogate pair
        return _parse_slowly(line)
    return record if isinstance(record, dict) else "invalid_json"


def _parse_slowly(line: bytes) -> dict[str, Any] | str:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8"
    # ValueError: also a number too long for int(). RecursionError: brackets nested too deep.
    except (ValueError, RecursionError):
        return "invalid_json"
    return record if isinstance(record, dict) else "invalid_json"


def _check_layout(
    config: JsonLinesSource, name: str, lines: Iterator[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank. Raises UserError if it begins like JSON of another layout."""
    lines = (one for one in lines if one[1].strip())
    ahead = list(islice(lines, 2))
    begin = ahead[0][1].strip() if ahead else b""
    is_other = begin in (b"[", b"{") or begin.startswith(b"[{")
    if is_other and all(isinstance(_parse(line), str) for _, line in ahead):
        what, remedy = (
            ("a JSON array", "jq -c '.[]' FILE")
            if begin.startswith(b"[")
            else ("one JSON object on several lines", "jq -c . FILE")
        )
        raise UserError(
            f"source '{config.name}': {name} is {what}, not JSON lines, which have one object a line; {remedy} writes "
            "such lines"
        )
    yield from ahead
    yield from lines
