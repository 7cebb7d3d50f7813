"""Finished work on disk. A directory is an artifact exactly when it holds record.json."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from cluster.host.files import FileEntry, describe_file, write_text
from configs.base import Artifact, Manifest, Name, UserError

RECORD = "record.json"
BUILD_COUNT_FILE = ".attempts"
"""Holds how often the making of an artifact that is not finished was begun."""

M = TypeVar("M", bound=Manifest)


class Input(BaseModel):
    """An artifact that this one was made from: its directory's name in the store, and its identity."""

    artifact: Name
    fingerprint: str


class Record(BaseModel):
    """Lineage: what was made, from what, by which recipe, code and packages, when, where, how long it took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    step: str
    stage: str
    version: int
    fingerprint: str
    config: dict[str, JsonValue]
    observed: JsonValue
    inputs: dict[str, Input | tuple[Input, ...]]
    """By slot: an artifact, or several where the stage takes a list."""

    manifest: dict[str, JsonValue]
    files: dict[str, FileEntry]
    started: datetime
    seconds: float
    """Wall time of the attempt that finished it."""

    attempts: int
    """How many times the work was begun, the last time included."""

    placement: dict[str, JsonValue]
    """How it was laid out on hardware; empty if the stage asked for none."""

    code: str
    """Commit of Concord, with `+changes` if the tree had uncommitted ones; its version if it is not a checkout."""

    packages: dict[str, str]
    host: str

    def given(self, slot: str) -> tuple[Input, ...]:
        """Return the artifacts that an input was; none if it was left out."""
        found = self.inputs.get(slot, ())
        return (found,) if isinstance(found, Input) else found

    def all_inputs(self) -> list[tuple[str, Input]]:
        """Return every artifact that this one was made from, with its slot."""
        return [(slot, made_from) for slot in self.inputs for made_from in self.given(slot)]


def commit(path: Path, record: Record) -> None:
    """Write the record last and atomically: a crash before this leaves no artifact."""
    write_text(path / RECORD, record.model_dump_json(indent=2))


def read_record(path: Path) -> Record | None:
    """Return the record of the artifact at `path`, or None if the work there is unfinished or absent."""
    try:
        text = (path / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_record(text, where=path / RECORD)


def parse_record(text: bytes, *, where: Path | str) -> Record:
    """Return the record in the bytes of a file. Raises UserError if this version cannot read it."""
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise _unreadable(where, error) from error


def record_of(store: Path, artifact: str) -> Record | None:
    """Return the record of an artifact that is in the store, or of one elsewhere that something in it was made from."""
    if (record := read_record(store / artifact)) is not None:
        return record
    path = kept_record(store, artifact)
    return parse_record(path.read_bytes(), where=path) if path.is_file() else None


def kept_record(store: Path, artifact: str) -> Path:
    """Return where a store keeps the record of an artifact that is not in it whole, for what was made from it.

    That is one which the working copy of a store behind a URL need not fetch, and a training that is not finished, of
    which a checkpoint was evaluated or exported.
    """
    return store / ".records" / f"{artifact}.json"


def load_artifact(path: Path, manifest: type[M]) -> Artifact[M] | None:
    """Return the artifact at `path`, or None if the work there is unfinished or absent."""
    record = read_record(path)
    if record is None:
        return None
    try:
        return Artifact(path, manifest.model_validate_json(json.dumps(record.manifest)))
    except ValidationError as error:
        raise _unreadable(path / RECORD, error) from error


def describe_files(path: Path, known: Mapping[str, FileEntry] | None = None) -> dict[str, FileEntry]:
    """Return the size and checksum of every file under `path` but the record and hidden ones, by relative path.

    Files in `known`, whose checksums were computed while they were written, are not read again. Raises UserError if
    one has not the size that it was written with.
    """
    return {
        name: _described(file, (known or {}).get(name))
        for file in _files(path)
        for name in [str(file.relative_to(path))]
    }


def _described(file: Path, known: FileEntry | None) -> FileEntry:
    if known is None:
        return describe_file(file)
    if (size := file.stat().st_size) != known.num_bytes:
        raise UserError(
            f"{file} has {size:,} bytes instead of the {known.num_bytes:,} that were written, so it was changed since; "
            "delete its directory and run this again"
        )
    return known


def _unreadable(where: Path | str, error: ValidationError) -> UserError:
    return UserError(
        f"{where} is not a record this version of Concord can read ({error.error_count()} problems); "
        "delete the directory to have it made again"
    )


def _files(path: Path) -> Iterator[Path]:
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and inside != Path(RECORD) and not any(part.startswith(".") for part in inside.parts):
            yield file
