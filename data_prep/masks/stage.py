"""The stage that finds what of a corpus earlier corpora have already: the earlier one keeps it.

A mask is of one corpus and depends on it and on those before it alone. So a corpus that is added last changes no mask,
and nothing that was made from one. Digests are joined range by range, as within a corpus (data_prep/cleaning/): each
corpus keeps those of a shard in order beside it.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.executor import Executor
from cluster.host.files import inside, whole_file, write_text
from configs.base import Artifact
from configs.data import DeduplicateConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.duplicates import are_among, choose_num_partitions, slice_of_range
from data_prep.cleaning.held_out import SHARD_DIGEST_ROW
from data_prep.manifests import CleanCorpus, CorpusShard, Mask, MaskCount, MaskedShard

_FOUND = np.dtype([("shard", "<u4"), ("row", "<u4")])


@dataclass(frozen=True)
class _Range:
    """One item of work: find the documents of a range of digests that earlier corpora have."""

    index: Path
    """JSON: the files of digests of the corpus, `own`, and those of earlier ones, `earlier`."""

    number: int
    num_partitions: int

    @property
    def found_file(self) -> Path:
        """The documents that are found, by shard and row."""
        return self.index.parent / f"found-{self.number:05d}.npy"


@dataclass(frozen=True)
class _ShardItem:
    """One item of work: write what is left out of a shard."""

    directory: Path
    num_partitions: int
    number: int
    """Of the shard, among those of the corpus."""

    documents: Path
    mask: Path


def deduplicate(
    config: DeduplicateConfig,
    *,
    corpus: Artifact[CleanCorpus],
    earlier: tuple[Artifact[CleanCorpus], ...] = (),
    out: Path,
    executor: Executor,
) -> Mask:
    """Find the documents of a corpus whose text an earlier corpus has, held out or not."""
    held_out = {shard.path for shard in corpus.manifest.held_out}
    shards = [*corpus.manifest.shards, *corpus.manifest.held_out]
    name = corpus.dir.resolve().name
    if not earlier:
        return Mask(corpus=name, shards=(), counts=())
    directory = out / "parts"
    index = directory / "digests.json"
    files = {"own": _digest_files(corpus), "earlier": [file for one in earlier for file in _digest_files(one)]}
    write_text(index, json.dumps(files))
    num_partitions = choose_num_partitions(sum(shard.num_documents for shard in shards))
    ranges = [_Range(index, number, num_partitions) for number in range(num_partitions)]
    found = np.zeros(len(shards), dtype=np.int64)
    for counts in executor.map(_find_earlier, ranges, label="looking for duplicates"):
        found += counts
    items = [
        _ShardItem(directory, num_partitions, number, inside(corpus.dir, shards[number].path), out / _mask_path(shard))
        for number, shard in ((number, shards[number]) for number in np.flatnonzero(found).tolist())
    ]
    totals: dict[tuple[str, str], Counter[str]] = {}
    for item, lost in zip(items, executor.map(_write_mask, items, label="writing masks"), strict=True):
        kind = "held out" if shards[item.number].path in held_out else "documents"
        for (source, language), (num_documents, num_bytes) in lost.items():
            total = totals.setdefault((source, language), Counter())
            total[kind] += num_documents
            total["bytes"] += num_bytes if kind == "documents" else 0
    shutil.rmtree(directory)
    return Mask(
        corpus=name,
        shards=tuple(_masked(shards[item.number], int(found[item.number])) for item in items),
        counts=tuple(
            MaskCount(
                source=source,
                language=language,
                num_documents=total["documents"],
                num_bytes=total["bytes"],
                num_held_out=total["held out"],
            )
            for (source, language), total in sorted(totals.items())
        ),
    )


def _digest_files(corpus: Artifact[CleanCorpus]) -> list[str]:
    shards = (*corpus.manifest.shards, *corpus.manifest.held_out)
    return [str(inside(corpus.dir, shard.digests).absolute()) for shard in shards]


def _mask_path(shard: CorpusShard) -> str:
    return f"masks/{shard.path.replace('/', '-').removesuffix('.jsonl.zst')}.npy"


def _masked(shard: CorpusShard, num_documents: int) -> MaskedShard:
    return MaskedShard(shard=shard.path, path=_mask_path(shard), num_documents=num_documents)


def _find_earlier(item: _Range) -> npt.NDArray[np.int64]:
    """Write the documents in a range that earlier corpora have; return how many each shard loses."""
    files = json.loads(item.index.read_text(encoding="utf-8"))
    own = list(_slices(files["own"], item))
    earlier = np.concatenate([np.empty(0, dtype=SHARD_DIGEST_ROW), *_slices(files["earlier"], item)])
    rows = np.concatenate(own)
    shard = np.repeat(np.arange(len(own)), [len(part) for part in own])
    is_earlier = are_among(rows, earlier)
    found = np.empty(int(is_earlier.sum()), dtype=_FOUND)
    found["shard"], found["row"] = shard[is_earlier], rows["row"][is_earlier]
    found.sort()
    with whole_file(item.found_file) as partial, partial.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    return np.bincount(found["shard"], minlength=len(own))


def _slices(paths: Sequence[str], item: _Range) -> Iterator[npt.NDArray[np.void]]:
    for path in paths:
        table = np.load(path, mmap_mode="r")
        yield np.array(slice_of_range(table, item.number, item.num_partitions))


def _write_mask(item: _ShardItem) -> dict[tuple[str, str], tuple[int, int]]:
    """Write the rows that a shard loses; return documents and bytes by source and language."""
    found = []
    for number in range(item.num_partitions):
        table = np.load(item.directory / f"found-{number:05d}.npy", mmap_mode="r")
        bounds = np.searchsorted(np.array(table["shard"]), [item.number, item.number + 1])
        found.append(np.array(table["row"][bounds[0] : bounds[1]]))
    rows = np.sort(np.concatenate(found))
    with whole_file(item.mask) as partial, partial.open("wb") as file:
        np.save(file, rows.astype(np.uint32), allow_pickle=False)
    lost: dict[tuple[str, str], tuple[int, int]] = {}
    left = set(rows.tolist())
    for row, document in enumerate(read_documents(item.documents)):
        if row in left:
            num_documents, num_bytes = lost.get((document.source, document.language), (0, 0))
            key = document.source, document.language
            lost[key] = num_documents + 1, num_bytes + len(document.text.encode())
    return lost
