"""Near copies among the documents of a corpus and of earlier ones: MinHash with locality-sensitive hashing, on disk.

Each document has a key for each of NEAR_BANDS bands of its signature (signatures.py), and a sketch of it: two bits of
each place. Tables of keys lie in order, so a range of keys is a slice of each: partitions are decided one by one, in
memory that does not grow with the corpus. Documents with a key in common, whose sketches are alike enough, are a pair;
what pairs connect is a cluster, of which one document is kept.

The share of equal places of two sketches is s + (1 - s) / 4 for a similarity s (b-bit minwise hashing, Li and König,
WWW 2010, for b = 2): s is known to within 0.042, one standard deviation at 0.8. Pairs of similarity 0.8 have a key in
common with probability 0.998, those of 0.7 with 0.92.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cluster.executor import Executor
from cluster.host.files import whole_file, write_text
from configs.data.stages import NearDuplicatesConfig
from data_prep.cleaning.duplicates import Ints, save_array, slice_of_range
from data_prep.masks.earlier import EarlierShard, read_earlier
from data_prep.masks.signatures import PLACES, Signatures, band_keys, sign

NEAR_BANDS = 20
"""Bands of 6 places each."""

PARTITION_ROWS = 1 << 22
"""Rows of tables that a partition has at most, about: 180 MB."""

TABLE_DOCUMENTS = 1 << 16
"""Documents of a table, at most: 58 MB."""

MARGIN = 0.03
"""Documents that are estimated to be less alike by so much are taken for near copies, too: the estimate is a sample."""

_REPRESENTATIVES = 8
"""Documents with a key in common that are unlike each other, of which the others are each compared with so many."""

BAND_ROW = np.dtype([("high", "<u8"), ("row", "<u4"), ("sketch", "<u8", 4)])
"""A band of a document: its key, the document's number in its shard, the sketch of its signature."""

_ODD = np.uint64(0x5555555555555555)


@dataclass(frozen=True)
class PairItem:
    """One item of work: find the pairs of a range of keys."""

    tables: Path
    """JSON: the path of each table and the number of its shard's first document."""

    number: int
    num_partitions: int
    similarity: float
    pairs: Path


@dataclass(frozen=True)
class ClusterItem:
    """The one item of work that connects pairs and decides what is kept."""

    pairs: tuple[Path, ...]
    first_own: int
    """Number of the first document of the corpus; those before it are of earlier ones."""

    sizes: tuple[Path, ...]
    """For each shard of the corpus a file with its documents' bytes, the field `size`."""

    starts: tuple[int, ...]
    """For each shard the number of its first document."""

    keep: Literal["first", "longest"]
    near: tuple[Path, ...]
    """For each shard where the rows go that are left out, and the rows that are kept with the size of their cluster."""


@dataclass(frozen=True)
class Signed:
    """A shard of the corpus whose documents are signed."""

    num_documents: int
    tables: tuple[Path, ...]
    sizes: Path
    near: Path


def find_near_duplicates(
    config: NearDuplicatesConfig,
    own: Sequence[Signed],
    earlier: Sequence[EarlierShard],
    directory: Path,
    executor: Executor,
) -> list[int]:
    """Find near copies among the documents of earlier corpora and of this one, in this order.

    Writes what each shard has of clusters; returns how many clusters there are of 2, 3, 4, ... documents.
    """
    signs = [SignItem(shard, directory / f"earlier-{i:06d}") for i, shard in enumerate(earlier)]
    tables: list[tuple[str, int]] = []
    number = 0
    signed = executor.map(sign_shard, signs, label="signing earlier sources")
    for shard, paths in zip(earlier, signed, strict=True):
        tables += [(str(path), number) for path in paths]
        number += shard.num_documents
    first_own, starts = number, []
    for one in own:
        starts.append(number)
        tables += [(str(path), number) for path in one.tables]
        number += one.num_documents
    index = directory / "tables.json"
    write_text(index, json.dumps(tables))
    parts = _choose_num_partitions(number)
    items = [PairItem(index, i, parts, config.similarity, directory / f"pairs-{i:06d}.npy") for i in range(parts)]
    for _ in executor.map(find_pairs, items, label="looking for near copies"):
        pass
    clusters = ClusterItem(
        pairs=tuple(item.pairs for item in items),
        first_own=first_own,
        sizes=tuple(one.sizes for one in own),
        starts=tuple(starts),
        keep=config.keep,
        near=tuple(one.near for one in own),
    )
    return next(iter(executor.map(decide_clusters, [clusters], label="connecting near copies")))


def write_tables(prefix: Path, batches: Iterable[tuple[npt.NDArray[np.uint32], Signatures]]) -> list[Path]:
    """Write the tables of a shard, from batches of the rows of documents and their signatures; return their paths."""
    paths = []
    for number, (rows, signatures) in enumerate(batches):
        keys = band_keys(signatures, NEAR_BANDS)
        keys = (keys ^ np.arange(NEAR_BANDS, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        order = np.argsort(keys, axis=None, kind="stable")
        table = np.empty(keys.size, dtype=BAND_ROW)
        table["high"], table["row"] = keys.ravel()[order], rows[order // NEAR_BANDS]
        table["sketch"] = _sketch(signatures)[order // NEAR_BANDS]
        path = prefix.with_name(f"{prefix.name}-{number:04d}.npy")
        save_array(path, table)
        paths.append(path)
    return paths


def _sketch(signatures: Signatures) -> npt.NDArray[np.uint64]:
    """Return two bits of each place, (n, 4)."""
    bits = (signatures & np.uint32(3)).astype(np.uint64).reshape(-1, 4, PLACES // 4)
    sketches: npt.NDArray[np.uint64] = np.bitwise_or.reduce(bits << np.arange(0, 64, 2, dtype=np.uint64), axis=2)
    return sketches


@dataclass(frozen=True)
class SignItem:
    """One item of work: write the tables of a shard of an earlier corpus."""

    shard: EarlierShard
    prefix: Path


def sign_shard(item: SignItem) -> list[Path]:
    """Write the tables of a shard, unless they are there; return their paths."""
    done = item.prefix.with_suffix(".tables")
    if not done.exists():
        paths = write_tables(item.prefix, _sign_batches(item.shard))
        with whole_file(done) as partial:
            partial.write_text("\n".join(path.name for path in paths), encoding="utf-8")
    return [done.with_name(name) for name in done.read_text(encoding="utf-8").split()]


def _sign_batches(shard: EarlierShard) -> Iterator[tuple[npt.NDArray[np.uint32], Signatures]]:
    documents = read_earlier(shard)
    while batch := [(row, sign(document.text)) for row, document in islice(documents, TABLE_DOCUMENTS)]:
        rows, signatures = zip(*batch, strict=True)
        yield np.array(rows, dtype=np.uint32), np.array(signatures, dtype=np.uint32)


def _choose_num_partitions(num_documents: int) -> int:
    """Return the number of partitions of keys for so many documents."""
    return max(1, -(-num_documents * NEAR_BANDS // PARTITION_ROWS))


def find_pairs(item: PairItem) -> None:
    """Write the pairs of numbers of documents that are alike among those with a key in a range."""
    if item.pairs.exists():
        return
    keys, numbers, sketches = [], [], []
    for path, first in json.loads(item.tables.read_bytes()):
        rows = slice_of_range(np.load(path, mmap_mode="r"), item.number, item.num_partitions)
        keys.append(np.array(rows["high"]))
        numbers.append(rows["row"].astype(np.int64) + first)
        sketches.append(np.array(rows["sketch"]))
    all_keys, all_numbers = np.concatenate(keys), np.concatenate(numbers)
    order = np.lexsort((all_numbers, all_keys))
    pairs = _compare(all_keys[order], all_numbers[order], np.concatenate(sketches)[order], item.similarity)
    save_array(item.pairs, np.unique(pairs, axis=0))


def _compare(keys: npt.NDArray[np.uint64], numbers: Ints, sketches: npt.NDArray[np.uint64], similarity: float) -> Ints:
    """Return the pairs, (m, 2), among rows in the order of their keys.

    The rows of a key are compared with its first; those that are unlike it with the first of these, and so on.
    """
    least = max(0.0, similarity - MARGIN)
    wanted = (least + (1 - least) / 4) * PLACES
    found = [np.empty((0, 2), dtype=np.int64)]
    for _ in range(_REPRESENTATIVES):
        is_first = np.ones(len(keys), dtype=bool)
        is_first[1:] = keys[1:] != keys[:-1]
        if is_first.all():
            break
        first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
        is_alike = ~is_first & (_count_equal(sketches, sketches[first]) >= wanted)
        found.append(np.column_stack((numbers[first[is_alike]], numbers[is_alike])))
        rest = ~is_first & ~is_alike
        keys, numbers, sketches = keys[rest], numbers[rest], sketches[rest]
    return np.concatenate(found)


def _count_equal(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return for each row how many places of two sketches are equal."""
    same = ~(one ^ other)
    number: npt.NDArray[np.int64] = np.bitwise_count(same & (same >> np.uint64(1)) & _ODD).sum(axis=1, dtype=np.int64)
    return number


def decide_clusters(item: ClusterItem) -> list[int]:
    """Write which documents of each shard are left out; return how many clusters there are of 2, 3, 4, ... documents.

    A cluster with a document of an earlier corpus keeps none of this one. Of others the first is kept, or the longest,
    the first of several. The whole is in memory: some 100 bytes for each document that has a near copy.
    """
    pairs = np.unique(np.concatenate([np.load(path) for path in item.pairs]), axis=0)
    numbers, ends = np.unique(pairs, return_inverse=True)
    cluster = connect(len(numbers), ends.reshape(-1, 2))
    is_own = numbers >= item.first_own
    starts = np.array([*item.starts, np.iinfo(np.int64).max])
    shard = np.searchsorted(starts, numbers, side="right") - 1
    rank = -_read_sizes(item, numbers, shard) if item.keep == "longest" else np.zeros(len(numbers), dtype=np.int64)
    order = np.lexsort((numbers, rank, is_own, cluster))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = cluster[order][1:] != cluster[order][:-1]
    kept = np.zeros(len(numbers), dtype=bool)
    kept[order[is_first]] = True
    sizes = np.bincount(cluster, minlength=len(numbers) or 1)[cluster] if len(numbers) else numbers
    for place, path in enumerate(item.near):
        own = is_own & (shard == place)
        out = numbers[own & ~kept] - starts[place]
        up = np.column_stack((numbers[own & kept] - starts[place], sizes[own & kept])).reshape(-1, 2)
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, out=out.astype(np.uint32), kept=up.astype(np.uint32))
    histogram: list[int] = np.bincount(sizes[order[is_first]]).tolist()
    return histogram[2:]


def _read_sizes(item: ClusterItem, numbers: Ints, shard: Ints) -> Ints:
    """Return the bytes of documents; 0 of those of earlier corpora."""
    sizes = np.zeros(len(numbers), dtype=np.int64)
    for place, path in enumerate(item.sizes):
        own = (shard == place) & (numbers >= item.first_own)
        if own.any():
            sizes[own] = np.load(path, mmap_mode="r")["size"][numbers[own] - item.starts[place]]
    return sizes


def connect(number: int, pairs: Ints) -> Ints:
    """Return for each of `number` nodes the least node that pairs connect it with (hooking and pointer jumping)."""
    least = np.arange(number)
    while len(pairs):
        roots = least[pairs]
        low, high = roots.min(axis=1), roots.max(axis=1)
        is_apart = low != high
        if not is_apart.any():
            break
        pairs = pairs[is_apart]
        np.minimum.at(least, high[is_apart], low[is_apart])
        while (jumped := least[least]).tobytes() != least.tobytes():
            least = jumped
    return least
