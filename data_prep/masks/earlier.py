"""What earlier corpora have, word for word: digests are joined range by range, as within a corpus.

Each corpus keeps the digests of a shard, in order, beside it (data_prep/cleaning/duplicates.py).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.cleaning.duplicates import are_among, save_array, slice_of_range


@dataclass(frozen=True)
class Range:
    """One item of work: find the documents of a range of digests that earlier corpora have."""

    files: Path
    """JSON: the files of digests of the corpus, `own`, and those of earlier ones, `earlier`."""

    number: int
    num_partitions: int


def find_earlier(item: Range) -> None:
    """Write the documents in a range that earlier corpora have."""
    files = json.loads(item.files.read_text(encoding="utf-8"))
    own = list(_slices(files["own"], item))
    rows = np.concatenate(own)
    shard = np.repeat(np.arange(len(own)), [len(part) for part in own])
    is_earlier = are_among(rows, _slices(files["earlier"], item))
    shard, row = shard[is_earlier], rows["row"][is_earlier]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(shard, minlength=len(own)))])
    save_array(_found_file(item.files.parent, item.number), np.concatenate([bounds, row[np.lexsort((row, shard))]]))


def _slices(paths: Sequence[str], item: Range) -> Iterator[npt.NDArray[np.void]]:
    for path in paths:
        yield slice_of_range(np.load(path, mmap_mode="r"), item.number, item.num_partitions)


def _found_file(directory: Path, number: int) -> Path:
    """Return the file of what earlier corpora have of a range of digests: where the rows of each shard begin among
    all that are found, then these rows."""
    return directory / f"found-{number:05d}.npy"


def load_found(directory: Path, num_partitions: int, number: int, num_shards: int) -> list[int]:
    """Return the rows of a shard that earlier corpora have; none if there are no partitions."""
    rows: list[int] = []
    for partition in range(num_partitions):
        table = np.load(_found_file(directory, partition), mmap_mode="r")
        start, stop = (table[[number, number + 1]] + num_shards + 1).tolist()
        rows += table[start:stop].tolist()
    return rows
