"""The source `json_lines`: one JSON object a line, in plain, .gz or .zst files."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from configs.data import JsonLinesSource
from data_prep.sources.document import Digest, Document, Unreadable
from data_prep.sources.file_parts import digest_files, display_name, expand_paths, read_lines
from data_prep.sources.record_fields import to_document


def parts(config: JsonLinesSource) -> tuple[str, ...]:
    """Return the files, each once."""
    return expand_paths(config)


def identity(config: JsonLinesSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: JsonLinesSource, part: str) -> Iterator[Document | Unreadable]:
    """Yield the records of one file; a record's number is its line, and blank lines are skipped."""
    name = display_name(part)
    for number, line in read_lines(config.name, part):
        if line.strip():
            record = _parse(line)
            where = f"{name}:{number}"
            yield Unreadable(where, record) if isinstance(record, str) else to_document(config, record, where)


def _parse(line: bytes) -> dict[str, Any] | str:
    """Return the object on a line, or the reason why there is none."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8"
    # ValueError: also a number too long for int(). RecursionError: brackets nested too deep.
    except (ValueError, RecursionError):
        return "invalid_json"
    return record if isinstance(record, dict) else "invalid_json"
