"""Paragraphs that several documents have, word for word: the first document keeps them, they are cut out of the others.

A paragraph is what blank lines part; in a text without blank lines, a line. Tables of their hashes lie in order, so
ranges of hashes are decided one by one, in memory that does not grow with the corpus, as near copies are.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.data.stages import ParagraphsConfig
from data_prep.cleaning.duplicates import save_array, slice_of_range
from data_prep.masks.earlier import EarlierShard, read_earlier

PARAGRAPH_ROW = np.dtype([("high", "<u8"), ("row", "<u4"), ("start", "<u4"), ("stop", "<u4"), ("size", "<u4")])
"""A paragraph: its hash, the number of its document in the shard, where it is in the text, the bytes that go with it:
its UTF-8, and the blanks that part it from what is before, or, at the beginning, from what is after."""

CUT_ROW = np.dtype([("number", "<u8"), ("start", "<u4"), ("stop", "<u4"), ("size", "<u4")])
"""A paragraph that is cut out: the number of its document among all, where it is in the text, its bytes."""

TABLE_ROWS = 1 << 20
"""Rows of a table, at most: 24 MB."""

PARTITION_ROWS = 1 << 22

_MOST_BLANKS = 64
"""Characters around a paragraph in which the blanks are counted that go with it."""

_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")

Rows = npt.NDArray[np.void]


def find_paragraphs(text: str, min_characters: int) -> Iterator[tuple[int, int]]:
    """Yield where the paragraphs of at least so many characters begin and end, without the blanks around them."""
    parting = list(_BLANK_LINES.finditer(text))
    gaps = [match.span() for match in parting] or [(place, place + 1) for place, one in enumerate(text) if one == "\n"]
    start = 0
    for stop, after in [*gaps, (len(text), len(text))]:
        if stop - start >= min_characters:
            own = text[start:stop]
            begin = start + len(own) - len(own.lstrip())
            end = stop - len(own) + len(own.rstrip())
            if end - begin >= min_characters:
                yield begin, end
        start = after


class ParagraphTables:
    """Writes the tables of a shard, which are complete when it is closed."""

    def __init__(self, prefix: Path, min_characters: int) -> None:
        self.paths: list[Path] = []
        self.num_rows = 0
        self._prefix, self._min_characters, self._numbers = prefix, min_characters, count()
        self._rows: list[tuple[int, int, int, int, int]] = []

    def add(self, row: int, text: str) -> None:
        """Take the paragraphs of a document."""
        for start, stop in find_paragraphs(text, self._min_characters):
            own = text[start:stop].encode()
            before, after = text[max(0, start - _MOST_BLANKS) : start], text[stop : stop + _MOST_BLANKS]
            blanks = len(before) - len(before.rstrip()) if start else len(after) - len(after.lstrip())
            self._rows.append((xxhash.xxh3_64_intdigest(own), row, start, stop, len(own) + blanks))
        if len(self._rows) >= TABLE_ROWS:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            table = np.array(self._rows, dtype=PARAGRAPH_ROW)
            path = self._prefix.with_name(f"{self._prefix.name}-paragraphs-{next(self._numbers):04d}.npy")
            save_array(path, table[np.argsort(table["high"], kind="stable")])
            self.paths.append(path)
            self.num_rows += len(table)
            self._rows = []


@dataclass(frozen=True)
class TableItem:
    """One item of work: write the tables of a shard of an earlier corpus."""

    shard: EarlierShard
    prefix: Path
    min_characters: int


def write_tables(item: TableItem) -> tuple[list[Path], int]:
    """Write the tables of a shard, unless they are there; return their paths and the number of their rows."""
    done = item.prefix.with_suffix(".paragraphs.json")
    if not done.exists():
        tables = ParagraphTables(item.prefix, item.min_characters)
        for row, document in read_earlier(item.shard):
            tables.add(row, document.text)
        tables.close()
        write_text(done, json.dumps([[path.name for path in tables.paths], tables.num_rows]))
    names, number = json.loads(done.read_bytes())
    return [done.with_name(name) for name in names], number


@dataclass(frozen=True)
class Tabled:
    """A shard of the corpus whose paragraphs are in tables."""

    num_documents: int
    num_rows: int
    tables: tuple[Path, ...]
    near: Path | None
    """What it has of clusters of near copies; None if they are not looked for."""


@dataclass(frozen=True)
class RangeItem:
    """One item of work: find the paragraphs in a range of hashes that several documents have."""

    tables: Path
    """JSON: of each table its path, the number of its shard's first document, and the near copies of its shard."""

    number: int
    num_partitions: int
    first_own: int
    min_documents: int
    cuts: Path


def find_repeated_paragraphs(
    config: ParagraphsConfig,
    own: Sequence[Tabled],
    earlier: Sequence[EarlierShard],
    directory: Path,
    executor: Executor,
) -> list[tuple[int, int]]:
    """Find what is cut out of documents of a corpus, for documents before them, here or in earlier corpora.

    Returns for each shard the number of its first document and that after its last: `read_cuts` takes them.
    """
    items = [TableItem(shard, directory / f"earlier-{i:06d}", config.min_characters) for i, shard in enumerate(earlier)]
    tables: list[tuple[str, int, str | None]] = []
    number = num_rows = 0
    written = executor.map(write_tables, items, label="reading paragraphs of earlier sources")
    for shard, (paths, rows) in zip(earlier, written, strict=True):
        tables += [(str(path), number, None) for path in paths]
        number, num_rows = number + shard.num_documents, num_rows + rows
    first_own, bounds = number, list[tuple[int, int]]()
    for one in own:
        tables += [(str(path), number, str(one.near) if one.near else None) for path in one.tables]
        bounds.append((number, number + one.num_documents))
        number, num_rows = number + one.num_documents, num_rows + one.num_rows
    write_text(directory / "paragraphs.json", json.dumps(tables))
    parts = max(1, -(-num_rows // PARTITION_ROWS))
    ranges = [
        RangeItem(directory / "paragraphs.json", i, parts, first_own, config.min_documents, _cuts_file(directory, i))
        for i in range(parts)
    ]
    for _ in executor.map(find_repeated, ranges, label="looking for paragraphs"):
        pass
    return bounds


def _cuts_file(directory: Path, number: int) -> Path:
    return directory / f"cuts-{number:06d}.npy"


def find_repeated(item: RangeItem) -> None:
    """Write the paragraphs of a range that are cut out, in the order of their documents."""
    if item.cuts.exists():
        return
    found = [np.empty(0, dtype=PARAGRAPH_ROW)]
    numbers = [np.empty(0, dtype=np.uint64)]
    for path, first, near in json.loads(item.tables.read_bytes()):
        rows = np.array(slice_of_range(np.load(path, mmap_mode="r"), item.number, item.num_partitions))
        if near is not None:
            rows = rows[~np.isin(rows["row"], np.load(near)["out"])]
        found.append(rows)
        numbers.append(rows["row"].astype(np.uint64) + np.uint64(first))
    rows, number = np.concatenate(found), np.concatenate(numbers)
    order = np.lexsort((rows["start"], number, rows["high"]))
    rows, number = rows[order], number[order]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = rows["high"][1:] != rows["high"][:-1]
    group = np.cumsum(is_first) - 1
    is_other = ~is_first
    is_other[1:] &= number[1:] != number[:-1]
    num_documents = 1 + np.bincount(group, weights=is_other, minlength=1)[group] if len(rows) else group
    holder = number[np.flatnonzero(is_first)][group] if len(rows) else number
    is_cut = (number != holder) & (number >= item.first_own) & (num_documents >= item.min_documents)
    cuts = np.empty(int(is_cut.sum()), dtype=CUT_ROW)
    cuts["number"] = number[is_cut]
    for name in ("start", "stop", "size"):
        cuts[name] = rows[name][is_cut]
    save_array(item.cuts.with_name(item.cuts.name.replace("cuts", "holders")), np.unique(holder[is_cut]))
    save_array(item.cuts, cuts[np.lexsort((cuts["start"], cuts["number"]))])


def read_cuts(directory: Path, start: int, stop: int) -> Rows:
    """Return what is cut out of the documents from one number to before another, in their order."""
    found = [np.empty(0, dtype=CUT_ROW)]
    for path in sorted(directory.glob("cuts-*.npy")):
        table = np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
        numbers = table["number"]
        found.append(np.array(table[np.searchsorted(numbers, start) : np.searchsorted(numbers, stop)]))
    cuts = np.concatenate(found)
    return cuts[np.lexsort((cuts["start"], cuts["number"]))]


def read_holders(directory: Path, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """Return the documents, from one number to before another, that keep what is cut out of others."""
    found = [np.empty(0, dtype=np.uint64)]
    for path in sorted(directory.glob("holders-*.npy")):
        numbers = np.load(path)
        found.append(numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, stop)])
    return np.unique(np.concatenate(found))


def cut(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """Return a text without ranges of characters, in order; of the blanks around one, those before it go, too."""
    pieces, done = list[str](), 0
    for start, stop in ranges:
        pieces.append(text[done:start].rstrip() if pieces or start else text[done:start])
        done = stop
    return "".join([*pieces, text[done:]]).strip()
