"""Pieces of a corpus on disk: the documents of a part of a source, by language, in blocks, with their digests.

A piece has three files: its blocks (`.zst`), frames of Zstandard, each of documents of one language, those that are
held out after the others; its digests (`.digests`); and what describes it (`.json`), written last, whose presence means
that the piece is whole.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import zstandard

from cluster.host.files import whole_file, write_text
from configs.base import MIB
from data_prep.cleaning.document_files import LEVEL
from data_prep.cleaning.samples import SampleRow
from data_prep.manifests import UnreadableRecord

BLOCK_BYTES = MIB
"""Bytes of text after which a block ends."""

DIGEST_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("read", "<u4"), ("size", "<u4")])
"""A document of a piece: its digest as two numbers, its place in the piece, when it was read, its text's bytes."""


@dataclass(frozen=True)
class Group:
    """The documents of a piece in one language, held out or not."""

    is_held_out: bool
    language: str
    first_row: int
    """Place of its first document among those of the piece."""

    num_documents: int
    num_bytes: int
    """UTF-8 bytes of their texts."""

    blocks: tuple[tuple[int, int, int], ...]
    """For each block: where it begins in the file of the piece, its length there, its number of documents."""


@dataclass
class Piece:
    """What a finished piece holds, and what was counted while it was made."""

    name: str
    groups: list[Group] = field(default_factory=list)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(language, reason) -> number of documents."""

    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(language, kind of change) -> number of documents."""

    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(language, what) -> how much of it was found in documents that are kept."""

    identified: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(language as the source says it, language that was found) -> number of documents."""

    samples: list[SampleRow] = field(default_factory=list)
    """A few of the documents that filters dropped."""

    unreadable: list[UnreadableRecord] = field(default_factory=list)
    num_records: Counter[str] = field(default_factory=Counter)
    """File -> number of records that were read, those that are unreadable included."""

    num_unreadable: Counter[str] = field(default_factory=Counter)
    """File -> how many of them are."""

    num_dropped: Counter[str] = field(default_factory=Counter)
    """File -> how many were dropped: they are no text, or out of bounds."""

    position: tuple[int, int] = (0, 0)
    """Where to go on after it: the number of the span, and how many of its records were read."""

    is_last: bool = False

    @property
    def num_documents(self) -> int:
        return sum(group.num_documents for group in self.groups)


class PieceRow(NamedTuple):
    """A document that goes into a piece."""

    digest: bytes
    read: int
    """How many documents of the piece were read before it."""

    num_bytes: int
    line: bytes


def write_piece(directory: Path, piece: Piece, rows: Mapping[tuple[bool, str], list[PieceRow]]) -> None:
    """Write a piece whose counts are complete, from its documents by whether they are held out and by language."""
    path, ordered = directory / piece.name, sorted(rows.items())
    with whole_file(path.with_suffix(".zst")) as partial, partial.open("wb") as file:
        compressor, row = zstandard.ZstdCompressor(level=LEVEL), 0
        for (is_held_out, language), own in ordered:
            blocks = []
            for lines in _cut_blocks(own):
                frame = compressor.compress(b"".join(lines))
                blocks.append((file.tell(), len(frame), len(lines)))
                file.write(frame)
            size = sum(document.num_bytes for document in own)
            piece.groups.append(Group(is_held_out, language, row, len(own), size, tuple(blocks)))
            row += len(own)
    _write_digests(path.with_suffix(".digests"), [document for _, own in ordered for document in own])
    write_text(path.with_suffix(".json"), _to_json(piece))


def _cut_blocks(rows: list[PieceRow]) -> Iterator[list[bytes]]:
    lines, size = list[bytes](), 0
    for row in rows:
        lines.append(row.line)
        size += row.num_bytes
        if size >= BLOCK_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _write_digests(path: Path, rows: list[PieceRow]) -> None:
    """Write a row for each document, ordered by digest, and then all digests in the order of the documents."""
    digests = b"".join(row.digest for row in rows)
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    table = np.empty(len(rows), dtype=DIGEST_ROW)
    table["high"], table["low"] = halves[order, 0], halves[order, 1]
    table["row"] = order
    table["read"] = np.array([row.read for row in rows], dtype=np.uint32)[order]
    table["size"] = np.array([row.num_bytes for row in rows], dtype=np.uint32)[order]
    with whole_file(path) as partial:
        partial.write_bytes(table.tobytes() + digests)


def read_piece(path: Path) -> Piece:
    """Read what describes a piece."""
    saved = orjson.loads(path.read_bytes())
    return Piece(
        name=path.stem,
        groups=[Group(**group | {"blocks": tuple(map(tuple, group["blocks"]))}) for group in saved["groups"]],
        dropped=Counter({(language, reason): number for language, reason, number in saved["dropped"]}),
        changed=Counter({(language, kind): number for language, kind, number in saved["changed"]}),
        found=Counter({(language, kind): number for language, kind, number in saved["found"]}),
        identified=Counter({(declared, found): number for declared, found, number in saved["identified"]}),
        samples=[SampleRow(*row) for row in saved["samples"]],
        unreadable=[UnreadableRecord(**record) for record in saved["unreadable"]],
        num_records=Counter(saved["num_records"]),
        num_unreadable=Counter(saved["num_unreadable"]),
        num_dropped=Counter(saved["num_dropped"]),
        position=tuple(saved["position"]),
        is_last=saved["is_last"],
    )


def _to_json(piece: Piece) -> str:
    return json.dumps(
        {
            "groups": [vars(group) for group in piece.groups],
            "dropped": [[*key, number] for key, number in piece.dropped.items()],
            "changed": [[*key, number] for key, number in piece.changed.items()],
            "found": [[*key, number] for key, number in piece.found.items()],
            "identified": [[*key, number] for key, number in piece.identified.items()],
            "samples": piece.samples,
            "unreadable": [record.model_dump() for record in piece.unreadable],
            "num_records": piece.num_records,
            "num_unreadable": piece.num_unreadable,
            "num_dropped": piece.num_dropped,
            "position": piece.position,
            "is_last": piece.is_last,
        }
    )
