"""What cleaning does to one part of a source, on a worker. A finished part is not done again."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.host.files import whole_file
from configs.data import CleanConfig, Source
from data_prep.cleaning.document_files import read_documents, write_documents
from data_prep.cleaning.normalize import normalize
from data_prep.manifests import CorpusShard, UnreadableRecord
from data_prep.sources.document import Document, Unreadable
from data_prep.sources.table import READERS

HELD_OUT, DROPPED = 1, 2
"""Fates of a document; 0 is kept."""

Fates = npt.NDArray[np.int8]

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Part:
    """One item of work: a part of a source, and where its files go."""

    index: int
    source: Source
    name: str
    config: CleanConfig
    out: Path

    def _file(self, suffix: str) -> Path:
        return self.out / "parts" / f"{self.index:06d}{suffix}"

    @property
    def documents_file(self) -> Path:
        """Documents within the bounds, duplicates among them."""
        return self._file(".jsonl.zst")

    @property
    def scan_file(self) -> Path:
        """The Scan; written last, so its presence means that the part is scanned."""
        return self._file(".npz")

    @property
    def fate_file(self) -> Path:
        """One number a document of documents_file."""
        return self._file(".fate.npy")

    @property
    def held_out_file(self) -> Path:
        return self._file(".held_out.jsonl.zst")

    @property
    def written_file(self) -> Path:
        """The shards; written last, so its presence means that they are written."""
        return self._file(".written.json")


@dataclass(frozen=True)
class Scan:
    """What one part holds: a digest, a language and a size for each document, in order; and what was dropped."""

    source: str
    digests: npt.NDArray[np.void]
    """(n,) of 16 bytes each."""

    languages: npt.NDArray[np.str_]
    """(n,) strings."""

    sizes: npt.NDArray[np.int64]
    """(n,) UTF-8 bytes."""

    dropped: Counter[tuple[str, str]]
    """(language, reason) -> number of documents."""

    unreadable: tuple[UnreadableRecord, ...]


@dataclass(frozen=True)
class Written:
    """The shards that one part became."""

    shards: tuple[CorpusShard, ...]


def scan_part(part: Part) -> Scan:
    """Read a part, normalise, drop what is out of bounds; stops early once too much is unreadable."""
    if part.scan_file.exists():
        return _load_scan(part)
    dropped: Counter[tuple[str, str]] = Counter()
    unreadable: list[UnreadableRecord] = []
    rows: list[tuple[bytes, str, int]] = []
    write_documents(part.documents_file, _within_bounds(part, rows, dropped, unreadable))
    scan = Scan(
        source=part.source.name,
        digests=np.array([row[0] for row in rows], dtype=f"V{DIGEST_BYTES}"),
        languages=np.array([row[1] for row in rows], dtype=str),
        sizes=np.array([row[2] for row in rows], dtype=np.int64),
        dropped=dropped,
        unreadable=tuple(unreadable),
    )
    if len(unreadable) <= part.config.max_unreadable:
        _save_scan(part, scan)
    return scan


def _within_bounds(
    part: Part,
    rows: list[tuple[bytes, str, int]],
    dropped: Counter[tuple[str, str]],
    unreadable: list[UnreadableRecord],
) -> Iterator[Document]:
    for record in READERS[part.source.kind].read(part.source, part.name):
        if isinstance(record, Unreadable):
            unreadable.append(UnreadableRecord(where=record.where, reason=record.reason))
            if len(unreadable) > part.config.max_unreadable:
                return
            continue
        text = normalize(record.text)
        if reason := _out_of_bounds(text, part.config):
            dropped[record.language, reason] += 1
            continue
        encoded = text.encode()
        digest = hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()
        rows.append((digest, record.language, len(encoded)))
        yield Document(record.id, text, record.language, record.source, record.metadata)


def _out_of_bounds(text: str, config: CleanConfig) -> str | None:
    if not text:
        return "empty"
    if len(text) < config.min_characters:
        return "too_short"
    return "too_long" if len(text) > config.max_characters else None


def write_part(part: Part) -> Written:
    """Write the kept documents of a scanned part as shards ordered by language, and its held-out ones."""
    if not part.written_file.exists():
        fates = np.load(part.fate_file)
        judged = zip(fates.tolist(), read_documents(part.documents_file), strict=True)
        held_out: list[Document] = []
        shards = [_write_shard(part, i, docs) for i, docs in enumerate(_batches(part, judged, held_out))]
        write_documents(part.held_out_file, held_out)
        rows = [shard.model_dump(mode="json") for shard in shards]
        with whole_file(part.written_file) as partial:
            partial.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(part.written_file.read_text(encoding="utf-8"))
    return Written(tuple(CorpusShard.model_validate(row) for row in rows))


def _batches(part: Part, judged: Iterator[tuple[int, Document]], held_out: list[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for fate, document in judged:
        if fate == HELD_OUT:
            held_out.append(document)
        elif fate != DROPPED:
            batch.append(document)
            size += len(document.text.encode())
        if size >= part.config.shard_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_shard(part: Part, number: int, documents: list[Document]) -> CorpusShard:
    path = f"shards/{part.source.name}-{part.index:06d}-{number:05d}.jsonl.zst"
    documents.sort(key=lambda document: document.language)  # stable: within a language the order is the source's
    return CorpusShard(path=path, source=part.source.name, num_documents=write_documents(part.out / path, documents))


def _save_scan(part: Part, scan: Scan) -> None:
    notes = {
        "dropped": [[*key, number] for key, number in scan.dropped.items()],
        "unreadable": [record.model_dump() for record in scan.unreadable],
    }
    with whole_file(part.scan_file) as partial, partial.open("wb") as file:
        arrays = {"digests": scan.digests, "languages": scan.languages, "sizes": scan.sizes}
        np.savez(file, allow_pickle=False, notes=np.array(json.dumps(notes)), **arrays)


def _load_scan(part: Part) -> Scan:
    with np.load(part.scan_file) as saved:
        notes = json.loads(str(saved["notes"]))
        return Scan(
            source=part.source.name,
            digests=saved["digests"],
            languages=saved["languages"],
            sizes=saved["sizes"],
            dropped=Counter({(language, reason): n for language, reason, n in notes["dropped"]}),
            unreadable=tuple(UnreadableRecord(**record) for record in notes["unreadable"]),
        )
