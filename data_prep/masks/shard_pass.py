"""The passes over a corpus's shards that make its mask: what each document is left out for.

The first pass reads each shard once. What it decides of a document is a row of the shard's ledger. The second, when
near copies are known, writes the mask from the ledger, without the text.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from cluster.host.files import whole_file, write_text
from configs.data.stages import ParagraphsConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.duplicates import save_array
from data_prep.masks.contamination import Item, ItemIndex, Overlap
from data_prep.masks.earlier import load_found
from data_prep.masks.manifest import (
    CONTAMINATED,
    IN_EARLIER_SOURCE,
    NEAR_DUPLICATE,
    NEAR_HELD_OUT,
    REPEATED_PARAGRAPHS,
)
from data_prep.masks.near_duplicates import TABLE_DOCUMENTS, write_tables
from data_prep.masks.paragraphs import ParagraphTables, read_cuts, read_holders
from data_prep.masks.signatures import SignatureIndex, Signatures, sign_all
from data_prep.sources.document import Document

REASONS = ("", IN_EARLIER_SOURCE, NEAR_HELD_OUT, CONTAMINATED, NEAR_DUPLICATE, REPEATED_PARAGRAPHS)
"""By the number of a ledger's row; the first that fits a document counts."""

LEDGER_ROW = np.dtype([("size", "<u4"), ("language", "<u2"), ("reason", "u1")])
"""A document: bytes of its text, the number of its language in the shard, why it is left out."""

_BATCH_DOCUMENTS = 1000

Rows = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ShardItem:
    """One item of work: a shard of the corpus."""

    directory: Path
    """Where what is written on the way goes."""

    number: int
    """Number of the shard, among those of the corpus."""

    num_shards: int
    source: str
    documents: Path
    num_partitions: int
    """Partitions of what earlier corpora have; 0 if there is none."""

    held_out: Path | None
    """Index of what is held out; None if near copies of it are not looked for in this shard."""

    similarity: float
    tests: Path | None
    """Index of test sets; None if they are not looked for in this shard."""

    min_share: float
    finds_near: bool
    """Whether its documents are signed, for near copies of each other."""

    paragraphs: ParagraphsConfig | None
    """How paragraphs that several documents have are cut out; None if they stay."""

    mask: Path
    cuts: Path
    clusters: Path

    @property
    def prefix(self) -> Path:
        """How the names of its files begin."""
        return self.directory / f"shard-{self.number:06d}"

    @property
    def ledger(self) -> Path:
        """File of its ledger."""
        return self.prefix.with_suffix(".ledger.npy")

    @property
    def receipts(self) -> Path:
        """File of what its documents have of items of test sets."""
        return self.prefix.with_suffix(".receipts")

    @property
    def near(self) -> Path:
        """File of what it has of clusters."""
        return self.prefix.with_suffix(".near.npz")


@dataclass
class Looked:
    """What the first pass over a shard has found."""

    num_documents: int = 0
    tables: list[str] = field(default_factory=list)
    """Files of bands, by name."""

    paragraph_tables: list[str] = field(default_factory=list)
    num_paragraphs: int = 0
    """Rows of these tables."""

    overlaps: list[tuple[int, str]] = field(default_factory=list)
    """Item of a test set and document."""

    languages: list[str] = field(default_factory=list)


def look_at_shard(item: ShardItem) -> Looked:
    """Read a shard: write its ledger, the tables of its bands and its receipts, unless they are there."""
    done = item.prefix.with_suffix(".json")
    if not done.exists():
        write_text(done, json.dumps(vars(_Pass(item).run())))
    return Looked(**json.loads(done.read_bytes()))


class _Pass:
    """The first pass over a shard."""

    def __init__(self, item: ShardItem) -> None:
        self._item = item
        self._earlier = frozenset(load_found(item.directory, item.num_partitions, item.number, item.num_shards))
        self._held_out = SignatureIndex.load(item.held_out) if item.held_out else None
        self._items: list[Item] = []
        self._tests: ItemIndex | None = None
        if item.tests:
            self._items = load_items(item.tests)
            self._tests = ItemIndex(item.tests, self._items, min_share=item.min_share)
        self._rows: list[tuple[int, int, int]] = []
        self._languages: dict[str, int] = {}
        self._looked = Looked()
        config = item.paragraphs
        self._paragraphs = ParagraphTables(item.prefix, config.min_characters) if config else None

    def run(self) -> Looked:
        """Read the shard to its end and write what was found."""
        item, looked = self._item, self._looked
        if not (self._earlier or self._held_out or self._tests or item.finds_near or item.paragraphs):
            return looked
        with whole_file(item.receipts) as partial, partial.open("wb") as self._receipts:
            batches = self._batches()
            if item.finds_near:
                looked.tables = [path.name for path in write_tables(item.prefix, _join(batches))]
            else:
                for _ in batches:
                    pass
        if self._paragraphs:
            self._paragraphs.close()
            looked.paragraph_tables = [path.name for path in self._paragraphs.paths]
            looked.num_paragraphs = self._paragraphs.num_rows
        ledger = np.array(self._rows, dtype=LEDGER_ROW)
        save_array(item.ledger, ledger)
        looked.num_documents, looked.languages = len(ledger), list(self._languages)
        return looked

    def _batches(self) -> Iterator[tuple[Rows, Signatures]]:
        """Yield the rows that stay, with their signatures, where these are needed."""
        documents, first = read_documents(self._item.documents), 0
        while batch := list(islice(documents, _BATCH_DOCUMENTS)):
            needs_signatures = self._held_out is not None or self._item.finds_near
            signatures = sign_all(document.text for document in batch) if needs_signatures else np.empty((0, 0), "<u4")
            is_near = [False] * len(batch)
            if self._held_out is not None:
                is_near = self._held_out.find_similar(signatures, self._item.similarity).tolist()
            reasons = [self._decide(first + place, document, is_near[place]) for place, document in enumerate(batch)]
            kept = np.flatnonzero(np.array(reasons) == 0)
            yield (kept + first).astype(np.uint32), signatures[kept] if needs_signatures else signatures
            first += len(batch)

    def _decide(self, row: int, document: Document, is_near: bool) -> int:
        """Write a document's row in the ledger; return its reason's number."""
        overlaps = self._tests.find(document.text) if self._tests else []
        reason = IN_EARLIER_SOURCE if row in self._earlier else NEAR_HELD_OUT if is_near else ""
        reason = reason or (CONTAMINATED if overlaps else "")
        for overlap in overlaps:
            self._write_receipt(document, overlap)
        language = self._languages.setdefault(document.language, len(self._languages))
        self._rows.append((len(document.text.encode()), language, REASONS.index(reason)))
        if self._paragraphs and not reason:
            self._paragraphs.add(row, document.text)
        return REASONS.index(reason)

    def _write_receipt(self, document: Document, overlap: Overlap) -> None:
        found = self._items[overlap.item]
        self._looked.overlaps.append((overlap.item, document.id))
        receipt = {
            "contains_text": True,
            "test": found.test,
            "item": found.id,
            "item_language": found.language,
            "source": document.source,
            "document": document.id,
            "language": document.language,
            "share": overlap.share,
            "text": overlap.text,
        }
        self._receipts.write(orjson.dumps(receipt, option=orjson.OPT_APPEND_NEWLINE))


def _join(batches: Iterator[tuple[Rows, Signatures]]) -> Iterator[tuple[Rows, Signatures]]:
    """Yield batches of the size of a table."""
    per_table = TABLE_DOCUMENTS // _BATCH_DOCUMENTS
    while group := list(islice(batches, per_table)):
        yield np.concatenate([rows for rows, _ in group]), np.concatenate([signatures for _, signatures in group])


def save_items(index: Path, items: list[Item]) -> None:
    """Write the items of an index of test sets beside it."""
    write_text(index.with_suffix(".items.json"), json.dumps(items))


def load_items(index: Path) -> list[Item]:
    """Return the items of an index of test sets, by their number."""
    rows: list[tuple[str, str, str, int, bool]] = orjson.loads(index.with_suffix(".items.json").read_bytes())
    return [Item(*row) for row in rows]


CUT = "cut"
"""In the place of a reason: paragraphs that are cut out of documents that stay."""

Lost = tuple[str, str, str, int, int]
"""Source, language, reason, documents and bytes; of CUT the number of paragraphs instead of documents."""


@dataclass(frozen=True)
class FinishItem:
    """One item of work: write the mask of a shard."""

    shard: ShardItem
    bounds: tuple[int, int] | None
    """The number of its first document and after its last, as cuts count them; None if nothing is cut out."""


def finish_shard(item: FinishItem) -> list[Lost]:
    """Write the mask of a shard, from its ledger, its near copies and its cuts; return what it loses."""
    shard = item.shard
    if not shard.ledger.exists():  # nothing was looked for in it
        return []
    ledger, languages = np.load(shard.ledger), look_at_shard(shard).languages
    kept = np.empty((0, 2), dtype=np.uint32)
    if shard.finds_near:
        near = np.load(shard.near)
        ledger["reason"][near["out"]] = REASONS.index(NEAR_DUPLICATE)
        kept = near["kept"]
        if len(kept):
            save_array(shard.clusters, kept)
    lost: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    if item.bounds:
        cuts = _cut_paragraphs(shard, ledger, item.bounds, kept[:, 0])
        for row, size in zip(cuts["number"].tolist(), cuts["size"].tolist(), strict=True):
            _add(lost[languages[ledger["language"][row]], CUT], size)
    rows = np.flatnonzero(ledger["reason"])
    if len(rows):
        save_array(shard.mask, rows.astype(np.uint32))
    for row in ledger[rows].tolist():
        size, language, reason = row
        _add(lost[languages[language], REASONS[reason]], size)
    return [(shard.source, *key, total[0], total[1]) for key, total in sorted(lost.items())]


def _add(total: list[int], size: int) -> None:
    total[0], total[1] = total[0] + 1, total[1] + size


def _cut_paragraphs(
    shard: ShardItem, ledger: npt.NDArray[np.void], bounds: tuple[int, int], kept: Rows
) -> npt.NDArray[np.void]:
    """Write what is cut out of a shard's documents, and return it by their rows.

    In the ledger those go of which too little would remain, unless they keep what is cut out of others, or are what is
    kept of near copies; and those of which nothing would remain.
    """
    assert shard.paragraphs is not None
    cuts = read_cuts(shard.directory, *bounds)
    cuts["number"] -= np.uint64(bounds[0])
    removed = np.bincount(cuts["number"].astype(np.int64), weights=cuts["size"], minlength=len(ledger))
    too_little = (removed > 0) & (ledger["size"] - removed < shard.paragraphs.min_remaining * ledger["size"])
    too_little[(read_holders(shard.directory, *bounds) - np.uint64(bounds[0])).astype(np.int64)] = False
    too_little[kept] = False
    too_little |= removed >= np.maximum(ledger["size"], 1)
    ledger["reason"][too_little & (ledger["reason"] == 0)] = REASONS.index(REPEATED_PARAGRAPHS)
    cuts = np.array(cuts[ledger["reason"][cuts["number"]] == 0])
    if len(cuts):
        columns = [cuts[name].astype(np.uint32) for name in ("number", "start", "stop")]
        save_array(shard.cuts, np.column_stack(columns))
    return cuts
