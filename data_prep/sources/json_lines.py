"""JSON lines: one object a line, plain, .gz or .zst."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from configs.data import JsonLinesSource
from data_prep.sources import file_parts as files
from data_prep.sources import record_fields as records
from data_prep.sources.document import Digest, Document, Unreadable


def parts(config: JsonLinesSource) -> tuple[str, ...]:
    """The files."""
    return files.expand(config)


def identity(config: JsonLinesSource, digest: Digest) -> JsonValue:
    """Name and digest of every file."""
    return files.file_identity(config, digest)


def read(config: JsonLinesSource, part: str) -> Iterator[Document | Unreadable]:
    """Records of one file; a record's number is its line, and blank lines hold none."""
    name = files.display(part)
    for number, line in files.read_lines(config.name, part):
        if line.strip():
            record = _parse(line)
            where = f"{name}:{number}"
            yield Unreadable(where, record) if isinstance(record, str) else records.to_document(config, record, where)


def _parse(line: bytes) -> dict[str, Any] | str:
    """The object on a line, or the reason why there is none."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8"
    # ValueError: also a number too long for int(). RecursionError: brackets nested too deep.
    except (ValueError, RecursionError):
        return "invalid_json"
    return record if isinstance(record, dict) else "invalid_json"
