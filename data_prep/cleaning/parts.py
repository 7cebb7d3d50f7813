"""Cleaning of one part of a source, on a worker: scan the part, then write its shards. Finished work is not redone."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.host.files import whole_file
from configs.data import CleanConfig, Source
from data_prep.cleaning.document_files import read_documents, write_documents
from data_prep.cleaning.held_out import DIGEST_BYTES, Digests, digest_of
from data_prep.manifests import CorpusShard, UnreadableRecord
from data_prep.sources.document import Document, Unreadable
from data_prep.sources.table import READERS

KEPT, HELD_OUT, DUPLICATE, HELD_OUT_ELSEWHERE = 0, 1, 2, 3
"""What is decided of a document; the last two are dropped."""

Fates = npt.NDArray[np.int8]
"""One of these for each document of a part, in order."""

_DIRECTORIES = {KEPT: "shards", HELD_OUT: "held_out"}
"""Where the documents of a decision are written to."""

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0), 0xFEFF) if chr(code) not in "\t\n"}
"""C0 and C1 controls and the byte-order mark. Format characters such as ZWJ stay: Indic scripts and emoji need them."""


@dataclass(frozen=True)
class Part:
    """One item of work: a part of a source, and the directory its files go to."""

    index: int
    source: Source
    name: str
    config: CleanConfig
    out: Path

    def _file(self, suffix: str) -> Path:
        return self.out / "parts" / f"{self.index:06d}{suffix}"

    @property
    def documents_file(self) -> Path:
        """The documents within the bounds; duplicates are among them."""
        return self._file(".jsonl.zst")

    @property
    def scan_file(self) -> Path:
        """The saved Scan; it is written last, so its presence means that the part is scanned."""
        return self._file(".npz")

    @property
    def fate_file(self) -> Path:
        """The decision of each document of `documents_file`."""
        return self._file(".fate.npy")

    @property
    def written_file(self) -> Path:
        """The list of shards; it is written last, so its presence means that the shards are written."""
        return self._file(".written.json")


@dataclass(frozen=True)
class Scan:
    """What one part holds: digest, language and size of each document in order, and counts of what was dropped."""

    source: str
    digests: Digests

    languages: npt.NDArray[np.str_]
    """(n,) language tags."""

    sizes: npt.NDArray[np.int64]
    """(n,) UTF-8 bytes of each text."""

    dropped: Counter[tuple[str, str]]
    """(language, reason) -> number of documents."""

    unreadable: tuple[UnreadableRecord, ...]


@dataclass(frozen=True)
class WrittenPart:
    """The shards that one part became."""

    shards: tuple[CorpusShard, ...]
    held_out: tuple[CorpusShard, ...]


def scan_part(part: Part) -> Scan:
    """Read a part, normalise its texts and drop those out of bounds; stop early once too much is unreadable."""
    if part.scan_file.exists():
        return _load_scan(part)
    dropped: Counter[tuple[str, str]] = Counter()
    unreadable: list[UnreadableRecord] = []
    rows: list[tuple[bytes, str, int]] = []
    write_documents(part.documents_file, _read_within_bounds(part, rows, dropped, unreadable))
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


def _read_within_bounds(
    part: Part,
    rows: list[tuple[bytes, str, int]],
    dropped: Counter[tuple[str, str]],
    unreadable: list[UnreadableRecord],
) -> Iterator[Document]:
    """Yield the normalised documents; add (digest, language, bytes) of each to `rows`, and count all others."""
    for record in READERS[part.source.kind].read(part.source, part.name):
        if isinstance(record, Unreadable):
            unreadable.append(UnreadableRecord(where=record.where, reason=record.reason))
            if len(unreadable) > part.config.max_unreadable:
                return
            continue
        text = normalize(record.text)
        if reason := _check_bounds(text, part.config):
            dropped[record.language, reason] += 1
            continue
        rows.append((digest_of(text), record.language, len(text.encode())))
        yield Document(record.id, text, record.language, record.source, record.metadata)


def normalize(text: str) -> str:
    """Return the text in Unicode normal form C, with `\n` line ends, and without controls and blank edges."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
    return unicodedata.normalize("NFC", unified).strip()


def _check_bounds(text: str, config: CleanConfig) -> str | None:
    """Return the reason to drop a text, or None."""
    if not text:
        return "empty"
    if len(text) < config.min_characters:
        return "too_short"
    return "too_long" if len(text) > config.max_characters else None


def write_part(part: Part) -> WrittenPart:
    """Write the kept and the held-out documents of a scanned part as shards, each ordered by language."""
    if not part.written_file.exists():
        decisions = np.load(part.fate_file)
        decided = zip(decisions.tolist(), read_documents(part.documents_file), strict=True)
        rows: dict[str, list[dict[str, object]]] = {directory: [] for directory in _DIRECTORIES.values()}
        for directory, documents in _batch_by_size(part, decided):
            shard = _write_shard(part, directory, len(rows[directory]), documents)
            rows[directory].append(shard.model_dump(mode="json"))
        with whole_file(part.written_file) as partial:
            partial.write_text(json.dumps(rows), encoding="utf-8")
    saved = json.loads(part.written_file.read_text(encoding="utf-8"))
    kept, held_out = (
        tuple(CorpusShard.model_validate(row) for row in saved[directory]) for directory in _DIRECTORIES.values()
    )
    return WrittenPart(kept, held_out)


def _batch_by_size(part: Part, decided: Iterator[tuple[int, Document]]) -> Iterator[tuple[str, list[Document]]]:
    """Yield the directory and the documents of each shard."""
    batches: dict[str, list[Document]] = {directory: [] for directory in _DIRECTORIES.values()}
    sizes = dict.fromkeys(batches, 0)
    for decision, document in decided:
        if (directory := _DIRECTORIES.get(decision)) is None:
            continue
        batches[directory].append(document)
        sizes[directory] += len(document.text.encode())
        if sizes[directory] >= part.config.shard_bytes:
            yield directory, batches[directory]
            batches[directory], sizes[directory] = [], 0
    yield from ((directory, batch) for directory, batch in batches.items() if batch)


def _write_shard(part: Part, directory: str, number: int, documents: list[Document]) -> CorpusShard:
    path = f"{directory}/{part.source.name}-{part.index:06d}-{number:05d}.jsonl.zst"
    documents.sort(key=lambda document: document.language)  # stable: a language keeps the order of the source
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
