"""What an artifact was made from, down to what the sources held."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from itertools import chain
from pathlib import Path

from pydantic import JsonValue

from cluster.storage.objects import ObjectStore
from configs.base import UserError
from configs.text import shorten
from pipeline.store.artifact import RECORD, Record, parse_record, record_of

GONE = "(no longer in the store)"
_LINE_CHARACTERS = 110
_MAX_OBSERVED = 12
_MAX_NAMED = 6


def ancestry(directory: Path, remote: ObjectStore | None = None) -> dict[str, Record]:
    """Return the records of the artifact at `directory` and of all its ancestors, by artifact name, its own last.

    Inputs come before what was made from them, each once. Ancestors are looked for beside the artifact, then in
    `remote`, the store that is a URL. One that is gone is left out, with whatever only it led to: a user may delete old
    work. Raises UserError if the artifact itself is not finished.
    """
    home = directory.resolve()
    if find_record(home.parent, home.name, remote) is None:
        raise UserError(
            f"{directory} is not a finished artifact, because it holds no {RECORD}; "
            "name a directory of the store, such as store/train-0123456789ab"
        )
    found: dict[str, Record] = {}
    _collect(lambda name: find_record(home.parent, name, remote), home.name, found, set())
    return found


def render_lineage(directory: Path, remote: ObjectStore | None = None) -> str:
    """Return a text tree from the artifact down to what the sources held; each artifact is described once."""
    records = ancestry(directory, remote)
    name = directory.resolve().name
    return "\n".join([name, *_render(name, records, set())])


def describe(record: Record) -> str:
    """Return one line: step, stage, when the work began, how long it took, and by which code."""
    stage = f"stage {record.stage}, version {record.version}"
    return " · ".join(
        [f"step {record.step}", stage, when(record), duration(record.seconds), f"code {shorten_digests(record.code)}"]
    )


def when(record: Record) -> str:
    """Return when the work began, in UTC to the minute."""
    return f"{record.started.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """Return seconds in words: `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 13 min`."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def shorten_digests(text: str) -> str:
    """Return the text with every digest or commit in it cut to its first 12 hex digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1", text)


def observed_lines(observed: JsonValue) -> list[str]:
    """Return what the sources held, as names and shortened digests: a line for each, at most twelve and a count."""
    match observed:
        case None:
            return []
        case dict():
            lines = [f"{_compact(key)}: {_compact(value)}" for key, value in observed.items()]
        case list():
            lines = [_compact(value) for value in observed]
        case _:
            lines = [_compact(observed)]
    rest = len(lines) - _MAX_OBSERVED
    return lines if rest <= 0 else [*lines[:_MAX_OBSERVED], f"and {rest:,} more"]


def find_record(store: Path, name: str, remote: ObjectStore | None) -> Record | None:
    """Return the record of an artifact, from the directory of a store or from `remote`, the store that is a URL."""
    if (record := record_of(store, name)) is not None or remote is None:
        return record
    data = remote.read(f"{name}/{RECORD}")
    return None if data is None else parse_record(data, where=f"{name}/{RECORD} in the store")


def _collect(find: Callable[[str], Record | None], name: str, found: dict[str, Record], seen: set[str]) -> None:
    # `seen` is marked on the way down, so that a record edited into a circle ends too.
    if name in seen or (record := find(name)) is None:
        return
    seen.add(name)
    for _, made_from in record.all_inputs():
        _collect(find, made_from.artifact, found, seen)
    found[name] = record


def _render(name: str, records: Mapping[str, Record], shown: set[str]) -> Iterator[str]:
    shown.add(name)
    record = records[name]
    inputs = record.all_inputs()
    stem = "│  " if inputs else "   "
    yield from (stem + line for line in _details(record))
    last = len(inputs) - 1
    for i, (slot, made_from) in enumerate(inputs):
        branch, stem = ("└─ ", "   ") if i == last else ("├─ ", "│  ")
        artifact, known = made_from.artifact, made_from.artifact in records
        note = "" if known and artifact not in shown else " (described above)" if known else f" {GONE}"
        yield f"{branch}{slot}: {artifact}{note}"
        if not note:
            yield from (stem + line for line in _render(artifact, records, shown))


def _details(record: Record) -> Iterator[str]:
    settings = {key: value for key, value in record.config.items() if not isinstance(value, dict | list)}
    short = ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())
    return chain(
        [describe(record)],
        [shorten(short, _LINE_CHARACTERS)] if short else [],
        (f"source {line}" for line in observed_lines(record.observed)),
    )


def _compact(value: JsonValue) -> str:
    """Return names and values in a row; many files are shown as the first few and a count."""
    match value:
        case dict():
            parts = [f"{json.dumps(key, ensure_ascii=False)[1:-1]} {_compact(inner)}" for key, inner in value.items()]
        case list():
            parts = [_compact(inner) for inner in value]
        case str():
            return shorten(shorten_digests(json.dumps(value, ensure_ascii=False)[1:-1]), _LINE_CHARACTERS)
        case _:
            return json.dumps(value)
    rest = len(parts) - _MAX_NAMED
    return ", ".join(parts if rest <= 0 else [*parts[:_MAX_NAMED], f"and {rest:,} more"])
