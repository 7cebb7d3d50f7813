"""The stage that finds what of a corpus is left out of training for what it, and earlier corpora, have.

* What an earlier corpus has, word for word, is left out here, held out or not: the earlier one keeps it. Digests are
  joined range by range, as within a corpus (data_prep/cleaning/duplicates.py): each corpus keeps those of a shard, in
  order, beside it.
* What is nearly a held-out text of this corpus or an earlier is left out, by signatures (signatures.py).

A mask is of one corpus and depends on it and on those before it alone. So a corpus that is added last changes no mask,
and nothing that was made from one; and what it holds out is not looked for in the corpora before it.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.executor import Executor
from cluster.host.files import inside, whole_file, write_text
from configs.base import Artifact
from configs.data.stages import DeduplicateConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.duplicates import are_among, choose_num_partitions, slice_of_range
from data_prep.manifests import (
    IN_EARLIER_SOURCE,
    NEAR_HELD_OUT,
    CleanCorpus,
    CorpusShard,
    Mask,
    MaskCount,
    MaskedShard,
)
from data_prep.masks.signatures import SignatureIndex, sign_all
from data_prep.sources.document import Document

_BATCH_DOCUMENTS = 1000


@dataclass(frozen=True)
class _Range:
    """One item of work: find the documents of a range of digests that earlier corpora have."""

    files: Path
    """JSON: the files of digests of the corpus, `own`, and those of earlier ones, `earlier`."""

    number: int
    num_partitions: int


@dataclass(frozen=True)
class _SignItem:
    """One item of work: sign the held-out documents of a shard."""

    documents: Path
    signatures: Path


@dataclass(frozen=True)
class _IndexItem:
    """The one item of work that makes the index of what is held out."""

    signatures: tuple[Path, ...]
    index: Path


@dataclass(frozen=True)
class _ShardItem:
    """One item of work: write what is left out of a shard."""

    directory: Path
    num_partitions: int
    """0 if there is no earlier corpus."""

    number: int
    """Of the shard, among those of the corpus."""

    num_shards: int

    documents: Path
    mask: Path
    index: Path | None
    """Of what is held out; None if near copies are not looked for in this shard."""

    similarity: float


def deduplicate(
    config: DeduplicateConfig,
    *,
    corpus: Artifact[CleanCorpus],
    earlier: tuple[Artifact[CleanCorpus], ...] = (),
    out: Path,
    executor: Executor,
) -> Mask:
    """Find the documents of a corpus that an earlier one has, and near copies of what these or it itself hold out."""
    directory = out / "parts"
    num_partitions = _find_all_earlier(corpus, earlier, directory, executor) if earlier else 0
    index = None
    if config.held_out_similarity is not None:
        index = _index_held_out([corpus, *earlier], directory, executor)
    items = list(_list_items(config, corpus, out, num_partitions, index))
    shards = [*corpus.manifest.shards, *corpus.manifest.held_out]
    totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    masked = []
    for item, lost in zip(items, executor.map(_write_mask, items, label="writing masks"), strict=True):
        is_held_out = item.number >= len(corpus.manifest.shards)
        for source, language, reason, num_documents, num_bytes in lost:
            total = totals[source, language]
            total["held out" if is_held_out else reason] += num_documents
            total["bytes"] += 0 if is_held_out else num_bytes
        if lost:
            shard = shards[item.number]
            masked.append(MaskedShard(shard=shard.path, path=_mask_path(shard), num_documents=sum(r[3] for r in lost)))
    shutil.rmtree(directory, ignore_errors=True)
    return Mask(
        corpus=corpus.dir.resolve().name,
        shards=tuple(masked),
        counts=tuple(
            MaskCount(
                source=source,
                language=language,
                dropped={reason: total[reason] for reason in (IN_EARLIER_SOURCE, NEAR_HELD_OUT) if total[reason]},
                num_bytes=total["bytes"],
                num_held_out=total["held out"],
            )
            for (source, language), total in sorted(totals.items())
        ),
    )


def _find_all_earlier(
    corpus: Artifact[CleanCorpus], earlier: Sequence[Artifact[CleanCorpus]], directory: Path, executor: Executor
) -> int:
    """Find what earlier corpora have; return the number of partitions that this took."""
    files = {"own": _digest_files(corpus), "earlier": [file for one in earlier for file in _digest_files(one)]}
    write_text(directory / "digests.json", json.dumps(files))
    shards = (*corpus.manifest.shards, *corpus.manifest.held_out)
    num_partitions = choose_num_partitions(sum(shard.num_documents for shard in shards))
    ranges = [_Range(directory / "digests.json", number, num_partitions) for number in range(num_partitions)]
    for _ in executor.map(_find_earlier, ranges, label="looking for duplicates"):
        pass
    return num_partitions


def _index_held_out(corpora: Sequence[Artifact[CleanCorpus]], directory: Path, executor: Executor) -> Path | None:
    """Make the index of what corpora hold out; return its directory, or None if they hold nothing out."""
    documents = [inside(one.dir, shard.path) for one in corpora for shard in one.manifest.held_out]
    if not documents:
        return None
    items = [_SignItem(path, directory / f"signed-{i:06d}.npy") for i, path in enumerate(documents)]
    for _ in executor.map(_sign_shard, items, label="signing what is held out"):
        pass
    index = directory / "index"
    made = _IndexItem(tuple(item.signatures for item in items), index)
    for _ in executor.map(_build_index, [made], label="indexing what is held out"):
        pass
    return index


def _list_items(
    config: DeduplicateConfig,
    corpus: Artifact[CleanCorpus],
    out: Path,
    num_partitions: int,
    index: Path | None,
) -> Iterator[_ShardItem]:
    """Yield the shards that may lose documents: all, or, without an index, if there is an earlier corpus."""
    shards, similarity = corpus.manifest.shards, config.held_out_similarity or 0.0
    all_shards = (*shards, *corpus.manifest.held_out)
    for number, shard in enumerate(all_shards):
        own_index = index if number < len(shards) else None
        if num_partitions or own_index:
            documents, mask = inside(corpus.dir, shard.path), out / _mask_path(shard)
            yield _ShardItem(
                out / "parts", num_partitions, number, len(all_shards), documents, mask, own_index, similarity
            )


def _digest_files(corpus: Artifact[CleanCorpus]) -> list[str]:
    shards = (*corpus.manifest.shards, *corpus.manifest.held_out)
    return [str(inside(corpus.dir, shard.digests).absolute()) for shard in shards]


def _mask_path(shard: CorpusShard) -> str:
    return f"masks/{shard.path.replace('/', '-').removesuffix('.jsonl.zst')}.npy"


def _found_file(directory: Path, number: int) -> Path:
    """Return the file of what earlier corpora have of a range of digests: where the rows of each shard begin among
    all that are found, then these rows."""
    return directory / f"found-{number:05d}.npy"


def _find_earlier(item: _Range) -> None:
    """Write the documents in a range that earlier corpora have."""
    files = json.loads(item.files.read_text(encoding="utf-8"))
    own = list(_slices(files["own"], item))
    rows = np.concatenate(own)
    shard = np.repeat(np.arange(len(own)), [len(part) for part in own])
    is_earlier = are_among(rows, _slices(files["earlier"], item))
    shard, row = shard[is_earlier], rows["row"][is_earlier]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(shard, minlength=len(own)))])
    _save(_found_file(item.files.parent, item.number), np.concatenate([bounds, row[np.lexsort((row, shard))]]))


def _slices(paths: Sequence[str], item: _Range) -> Iterator[npt.NDArray[np.void]]:
    for path in paths:
        yield slice_of_range(np.load(path, mmap_mode="r"), item.number, item.num_partitions)


def _sign_shard(item: _SignItem) -> None:
    _save(item.signatures, sign_all(document.text for document in read_documents(item.documents)))


def _build_index(item: _IndexItem) -> None:
    SignatureIndex.build(np.concatenate([np.load(path) for path in item.signatures])).save(item.index)


Lost = tuple[str, str, str, int, int]
"""Source, language, reason, documents and bytes."""


def _write_mask(item: _ShardItem) -> list[Lost]:
    """Write the rows that a shard loses, unless it is done; return what it loses."""
    done = item.directory / f"masked-{item.number:06d}.json"
    if not done.exists():
        reasons = {row: IN_EARLIER_SOURCE for row in _load_found(item)}
        lost: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
        for row, document, is_near in _look_for_copies(item) if item.index or reasons else ():
            if is_near and row not in reasons:
                reasons[row] = NEAR_HELD_OUT
            if row in reasons:
                total = lost[document.source, document.language, reasons[row]]
                total[0], total[1] = total[0] + 1, total[1] + len(document.text.encode())
        if reasons:
            _save(item.mask, np.array(sorted(reasons), dtype=np.uint32))
        write_text(done, json.dumps([[*key, *total] for key, total in sorted(lost.items())]))
    return [tuple(row) for row in json.loads(done.read_text(encoding="utf-8"))]


def _load_found(item: _ShardItem) -> list[int]:
    """Return the rows of a shard that earlier corpora have."""
    rows: list[int] = []
    for number in range(item.num_partitions):
        table = np.load(_found_file(item.directory, number), mmap_mode="r")
        start, stop = (table[[item.number, item.number + 1]] + item.num_shards + 1).tolist()
        rows += table[start:stop].tolist()
    return rows


def _look_for_copies(item: _ShardItem) -> Iterator[tuple[int, Document, bool]]:
    """Yield the documents of a shard by row, each with whether it is nearly a held-out one."""
    documents, first = read_documents(item.documents), 0
    index = SignatureIndex.load(item.index) if item.index else None
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        are_near = [False] * len(batch)
        if index is not None:
            signatures = sign_all(document.text for document in batch)
            are_near = index.find_similar(signatures, item.similarity).tolist()
        yield from zip(range(first, first + len(batch)), batch, are_near, strict=True)
        first += len(batch)


def _save(path: Path, array: npt.NDArray[np.generic]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
