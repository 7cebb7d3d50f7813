"""Earlier corpora: what they have word for word, and their documents without those that their own masks leave out.

Each corpus keeps the digests of a shard, in order, beside it (data_prep/cleaning/duplicates.py); they are joined range
by range, as within a corpus.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.host.files import inside
from configs.base import Artifact
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.duplicates import are_among, save_array, slice_of_range
from data_prep.manifests import CleanCorpus
from data_prep.masks.manifest import Mask
from data_prep.sources.document import Document


@dataclass(frozen=True)
class EarlierShard:
    """A shard of an earlier corpus."""

    documents: Path
    num_documents: int
    masked: Path | None
    """File of the numbers of the documents that its own mask leaves out; None if it leaves none out, or none is known.
    """


def list_earlier_shards(
    earlier: Sequence[Artifact[CleanCorpus]], masks: Sequence[Artifact[Mask]]
) -> tuple[EarlierShard, ...]:
    """Return the shards of earlier corpora, in order."""
    mask_by_corpus = {mask.manifest.corpus: mask for mask in masks}
    shards = []
    for corpus in earlier:
        mask = mask_by_corpus.get(corpus.dir.resolve().name)
        files = {one.shard: inside(mask.dir, one.path) for one in mask.manifest.shards if one.path} if mask else {}
        shards += [
            EarlierShard(inside(corpus.dir, shard.path), shard.num_documents, files.get(shard.path))
            for shard in corpus.manifest.shards
        ]
    return tuple(shards)


def read_earlier(shard: EarlierShard) -> Iterator[tuple[int, Document]]:
    """Yield the documents of a shard that its own mask keeps, with their numbers in the shard."""
    masked = frozenset[int](np.load(shard.masked).tolist() if shard.masked else ())
    return ((row, document) for row, document in enumerate(read_documents(shard.documents)) if row not in masked)


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
