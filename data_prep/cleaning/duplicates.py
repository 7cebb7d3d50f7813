"""Which documents are dropped as duplicates: decided by digest, each range of digests by itself.

A partition is one item of work. It reads its range of digests of every piece, where they lie in order, and writes which
documents it drops. So no process holds all digests: their number decides the number of partitions.

Of equal texts one stays: one that is held out, if there is one, and among these the first in the order of the sources.
So a text that a share holds out stays held out whatever else has it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.host.files import whole_file
from data_prep.cleaning.pieces import DIGEST_ROW

PARTITION_DOCUMENTS = 1 << 20
"""Documents that a partition has at most, about: it takes some 500 bytes of memory for each."""

LEAST_PARTITION_DOCUMENTS, PARTITIONS = 1 << 15, 8
"""There are so many partitions, unless they had less documents."""

_EMPTY_BYTES = 128
"""Size of a file of NumPy's that holds an empty array."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """All pieces of a corpus as arrays, with an entry for each group: the documents of a piece in one language.

    Groups are in the order of the corpus: by source, first those that are kept and then those that are held out, by
    language, as they were read. In that order documents are numbered.
    """

    names: list[str]
    sources: list[str]
    """Sources of the corpus, in its order."""

    languages: list[str]
    """Languages of the corpus, sorted."""

    group_source: Ints
    group_is_held_out: npt.NDArray[np.bool_]
    group_language: Ints
    group_piece: Ints
    group_row: Ints
    """Place, in its piece, of a group's first document."""

    group_documents: Ints
    group_bytes: Ints
    group_blocks: Ints
    """(groups + 1,) number of each group's first block."""

    blocks: Ints
    """(blocks, 3): where each block begins in the file of its piece, its length there, its documents."""

    @property
    def group_starts(self) -> Ints:
        """(groups + 1,) the number of each group's first document."""
        return np.concatenate([[0], np.cumsum(self.group_documents)])

    def save(self, directory: Path) -> None:
        """Write the arrays, for the items of work."""
        for key, value in vars(self).items():
            save_array(directory / f"{key}.npy", np.asarray(value))

    @classmethod
    def load(cls, directory: Path) -> "Pieces":
        """Map what `save` wrote: an item of work reads what it needs of it."""
        arrays: dict[str, Any] = {key.name: _map(directory / f"{key.name}.npy") for key in fields(cls)}
        names = {key: arrays[key].tolist() for key in ("names", "sources", "languages")}
        return cls(**arrays | names)


@dataclass(frozen=True)
class Partition:
    """One item of work: decide on the documents whose digests are in a range."""

    directory: Path
    """Where the pieces are."""

    index: Path
    """The directory that `Pieces.save` wrote to."""

    number: int
    num_partitions: int
    """A power of two."""

    held_out_elsewhere: tuple[Path, ...]
    """Files of digests of what other corpora hold out."""

    @property
    def dropped_file(self) -> Path:
        """The numbers of the documents it drops, in order."""
        return self.directory / f"dropped-{self.number:05d}.npy"


@dataclass(frozen=True)
class Dropped:
    """What a partition drops, counted: arrays with an entry for each group that loses documents."""

    group: Ints
    duplicates: Ints
    held_out_elsewhere: Ints
    num_bytes: Ints


def choose_num_partitions(num_documents: int) -> int:
    """Return the number of partitions for a corpus: a power of two."""
    size = min(PARTITION_DOCUMENTS, max(LEAST_PARTITION_DOCUMENTS, num_documents // PARTITIONS))
    return 1 << max(0, (num_documents - 1) // size).bit_length()


def find_duplicates(partition: Partition) -> Dropped:
    """Write the documents that are dropped among those of a partition."""
    pieces = Pieces.load(partition.index)
    rows, group = _read_rows(partition, pieces)
    is_held_out = pieces.group_is_held_out[group]
    order = np.lexsort((rows["read"], pieces.group_piece[group], ~is_held_out, rows["low"], rows["high"]))
    rows, group, is_held_out = rows[order], group[order], is_held_out[order]
    is_duplicate = np.zeros(len(rows), dtype=bool)
    is_duplicate[1:] = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
    is_elsewhere = _are_held_out_elsewhere(partition, rows) & ~is_duplicate & ~is_held_out
    dropped = is_duplicate | is_elsewhere
    own = group[dropped]
    numbers = np.sort(pieces.group_starts[own] + rows["row"][dropped] - pieces.group_row[own])
    save_array(partition.dropped_file, numbers)
    groups, place = np.unique(own, return_inverse=True)

    def count(weights: npt.NDArray[np.generic]) -> Ints:
        return np.bincount(place, weights=weights[dropped], minlength=len(groups)).astype(np.int64)

    return Dropped(groups, count(is_duplicate), count(is_elsewhere), count(rows["size"]))


def _read_rows(partition: Partition, pieces: Pieces) -> tuple[npt.NDArray[np.void], Ints]:
    """Return the rows of all pieces in the range, and the group of each."""
    rows, groups = [np.empty(0, dtype=DIGEST_ROW)], [np.empty(0, dtype=np.int64)]
    by_piece = np.argsort(pieces.group_piece, kind="stable")
    bounds = np.searchsorted(pieces.group_piece[by_piece], np.arange(len(pieces.names) + 1))
    for name, start, stop in zip(pieces.names, bounds.tolist(), bounds[1:].tolist(), strict=False):
        if start == stop:  # a piece without documents
            continue
        own = by_piece[start:stop]
        num_documents = int(pieces.group_documents[own].sum())
        path = partition.directory / f"{name}.digests"
        table = np.memmap(path, dtype=DIGEST_ROW, mode="r", shape=(num_documents,))
        found = np.array(slice_of_range(table, partition.number, partition.num_partitions))
        rows.append(found)
        groups.append(own[np.searchsorted(pieces.group_row[own], found["row"], side="right") - 1])
    return np.concatenate(rows), np.concatenate(groups)


def slice_of_range(table: npt.NDArray[np.void], number: int, num_partitions: int) -> npt.NDArray[np.void]:
    """Return the rows, which are ordered by digest, whose digests are in one of so many equal ranges."""
    # Not numpy's searchsorted, which would copy the column, and so read all of the file.
    start, stop = (
        bisect_left(table, (1 << 64) * i // num_partitions, key=lambda row: int(row["high"]))
        for i in (number, number + 1)
    )
    return table[start:stop]


def _are_held_out_elsewhere(partition: Partition, rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Return which rows have a digest that another corpus holds out."""
    tables = (np.load(path, mmap_mode="r") for path in partition.held_out_elsewhere)
    slices = (slice_of_range(table, partition.number, partition.num_partitions) for table in tables)
    return are_among(rows, slices)


def are_among(rows: npt.NDArray[np.void], others: Iterable[npt.NDArray[np.void]]) -> npt.NDArray[np.bool_]:
    """Return which rows have a digest, the fields `high` and `low`, that one of other tables has, too.

    The tables may be many times as large as the rows: one at a time is in memory.
    """
    order = np.lexsort((rows["low"], rows["high"]))
    high, low = rows["high"][order], rows["low"][order]
    found = np.zeros(len(rows), dtype=bool)
    for table in others:
        wanted_high, wanted_low = np.array(table["high"]), np.array(table["low"])
        place = np.searchsorted(high, wanted_high)
        while len(place):  # once, but for digests that have one half in common
            is_there = place < len(high)
            is_there[is_there] = high[place[is_there]] == wanted_high[is_there]
            place, wanted_high, wanted_low = place[is_there], wanted_high[is_there], wanted_low[is_there]
            found[place[low[place] == wanted_low]] = True
            place = place + 1
    result = np.empty(len(rows), dtype=bool)
    result[order] = found
    return result


def save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array, whole or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _map(path: Path) -> npt.NDArray[Any]:
    """Map an array from disk; an empty one cannot be mapped."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if path.stat().st_size > _EMPTY_BYTES else None)
    return array


def load_dropped(directory: Path, num_partitions: int, start: int, stop: int) -> Ints:
    """Return the dropped documents with numbers from `start` to below `stop`, in order."""
    found = []
    for number in range(num_partitions):
        numbers = _map(directory / f"dropped-{number:05d}.npy")
        found.append(np.array(numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, stop)]))
    return np.sort(np.concatenate(found))


def count_kept(pieces: Pieces, dropped: Sequence[Dropped]) -> tuple[Ints, Ints, Ints, Ints]:
    """Return by group: documents kept, their bytes, duplicates, documents held out elsewhere."""
    duplicates, elsewhere = np.zeros_like(pieces.group_documents), np.zeros_like(pieces.group_documents)
    lost = np.zeros_like(pieces.group_bytes)
    for part in dropped:
        duplicates[part.group] += part.duplicates
        elsewhere[part.group] += part.held_out_elsewhere
        lost[part.group] += part.num_bytes
    return pieces.group_documents - duplicates - elsewhere, pieces.group_bytes - lost, duplicates, elsewhere
