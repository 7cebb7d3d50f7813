"""The stage that finds what of a corpus is left out of training for what it, earlier corpora, and test sets have.

* What an earlier corpus has, word for word, is left out here, held out or not: the earlier one keeps it (earlier.py).
* What is nearly a held-out text of this corpus or an earlier is left out, by signatures (signatures.py).
* What has an item of a test set is left out, with a receipt (contamination.py).
* Of documents that are nearly the same, here and in earlier corpora, one is kept (near_duplicates.py).
* Paragraphs that several documents have are cut out of all but the first (paragraphs.py).

A mask is of one corpus and depends on it, on those before it and on their masks alone. So a corpus that is added last
changes no mask, and nothing that was made from one; and what it holds out is not looked for in the corpora before it.
The masks of earlier corpora tell which of their documents stay: only these keep a near copy or a paragraph for all.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from cluster.executor import Executor
from cluster.host.files import inside, whole_file, write_text
from configs.base import Artifact, UserError
from configs.data.stages import DecontaminateConfig, DeduplicateConfig, ParagraphsConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.duplicates import choose_num_partitions, save_array
from data_prep.manifests import CleanCorpus, CorpusShard
from data_prep.masks.contamination import FEWER_LETTERS, FEWER_WORDS, build_index, count_found
from data_prep.masks.earlier import EarlierShard, Range, find_earlier, list_earlier_shards
from data_prep.masks.manifest import Mask, MaskCount, MaskedShard
from data_prep.masks.near_duplicates import Signed, find_near_duplicates
from data_prep.masks.paragraphs import Tabled, find_repeated_paragraphs
from data_prep.masks.shard_pass import (
    CUT,
    REASONS,
    FinishItem,
    Looked,
    Lost,
    ShardItem,
    finish_shard,
    load_items,
    look_at_shard,
    save_items,
)
from data_prep.masks.signatures import SignatureIndex, sign_all
from data_prep.sources.document import Digest
from data_prep.sources.table import READERS

CLUSTERS, RECEIPTS = "clusters", "contamination.jsonl"


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
class _TestItem:
    """The one item of work that makes the index of test sets."""

    config: DecontaminateConfig
    index: Path


def observe_tests(config: DeduplicateConfig, digest: Digest) -> JsonValue:
    """Return what the test sets hold now, which is part of the mask's fingerprint; None if there are none."""
    if config.decontaminate is None:
        return None
    return {test.name: READERS[test.kind].identity(test, digest) for test in config.decontaminate.tests}


def deduplicate(
    config: DeduplicateConfig,
    *,
    corpus: Artifact[CleanCorpus],
    earlier: tuple[Artifact[CleanCorpus], ...] = (),
    earlier_masks: tuple[Artifact[Mask], ...] = (),
    out: Path,
    executor: Executor,
) -> Mask:
    """Find what of a corpus is left out of training. Raises UserError if a test set is missing or cannot be read."""
    directory = out / "parts"
    num_partitions = _find_all_earlier(corpus, earlier, directory, executor) if earlier else 0
    held_out = None
    if config.held_out_similarity is not None:
        held_out = _index_held_out([corpus, *earlier], directory, executor)
    tests = _index_tests(config.decontaminate, directory, executor) if config.decontaminate else None
    items = list(_list_items(config, corpus, out, num_partitions, held_out, tests))
    looked = list(executor.map(look_at_shard, items, label="looking at documents"))
    earlier_shards = list_earlier_shards(earlier, earlier_masks)
    cluster_sizes: list[int] = []
    if config.near:
        own = [
            Signed(one.num_documents, tuple(directory / name for name in one.tables), item.ledger, item.near)
            for item, one in zip(items, looked, strict=True)
            if item.finds_near
        ]
        cluster_sizes = find_near_duplicates(config.near, own, earlier_shards, directory, executor)
    finishing = _finish_items(config.paragraphs, items, looked, earlier_shards, directory, executor)
    lost = list(executor.map(finish_shard, finishing, label="writing masks"))
    if tests:
        _write_receipts(out / RECEIPTS, items)
    mask = Mask(
        corpus=corpus.dir.resolve().name,
        shards=tuple(_list_masked(corpus, items, lost)),
        counts=_count(corpus, items, lost),
        tests=count_found(load_items(tests), (one for shard in looked for one in shard.overlaps)) if tests else (),
        receipts=RECEIPTS if tests else "",
        clusters=CLUSTERS if config.near else "",
        cluster_sizes=tuple(cluster_sizes),
    )
    shutil.rmtree(directory, ignore_errors=True)
    return mask


def _find_all_earlier(
    corpus: Artifact[CleanCorpus], earlier: Sequence[Artifact[CleanCorpus]], directory: Path, executor: Executor
) -> int:
    """Find what earlier corpora have; return the number of partitions that this took."""
    files = {"own": _digest_files(corpus), "earlier": [file for one in earlier for file in _digest_files(one)]}
    write_text(directory / "digests.json", json.dumps(files))
    shards = (*corpus.manifest.shards, *corpus.manifest.held_out)
    num_partitions = choose_num_partitions(sum(shard.num_documents for shard in shards))
    ranges = [Range(directory / "digests.json", number, num_partitions) for number in range(num_partitions)]
    for _ in executor.map(find_earlier, ranges, label="looking for duplicates"):
        pass
    return num_partitions


def _digest_files(corpus: Artifact[CleanCorpus]) -> list[str]:
    shards = (*corpus.manifest.shards, *corpus.manifest.held_out)
    return [str(inside(corpus.dir, shard.digests).absolute()) for shard in shards]


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


def _sign_shard(item: _SignItem) -> None:
    save_array(item.signatures, sign_all(document.text for document in read_documents(item.documents)))


def _build_index(item: _IndexItem) -> None:
    SignatureIndex.build(np.concatenate([np.load(path) for path in item.signatures])).save(item.index)


def _index_tests(config: DecontaminateConfig, directory: Path, executor: Executor) -> Path:
    """Make the index of test sets; return its path."""
    index = directory / "tests.npy"
    for _ in executor.map(_build_test_index, [_TestItem(config, index)], label="reading test sets"):
        pass
    return index


def _build_test_index(item: _TestItem) -> None:
    items = build_index(item.config.tests, item.index)
    for test in item.config.tests:
        if not any(one.num_grams for one in items if one.test == test.name):
            raise UserError(
                f"test set {test.name!r} has no item that is long enough to be looked for ({FEWER_WORDS} words, or "
                f"{FEWER_LETTERS} letters of scripts without spaces); correct its text_field, or leave it out"
            )
    save_items(item.index, items)


def _list_items(
    config: DeduplicateConfig,
    corpus: Artifact[CleanCorpus],
    out: Path,
    num_partitions: int,
    held_out: Path | None,
    tests: Path | None,
) -> Iterator[ShardItem]:
    """Yield the shards that may lose documents; of what is held out these are documents of earlier corpora alone."""
    shards = corpus.manifest.shards
    every = (*shards, *corpus.manifest.held_out)
    for number, shard in enumerate(every):
        is_trained_on = number < len(shards)
        if num_partitions or (is_trained_on and (held_out or tests or config.near or config.paragraphs)):
            yield ShardItem(
                directory=out / "parts",
                number=number,
                num_shards=len(every),
                source=shard.source,
                documents=inside(corpus.dir, shard.path),
                num_partitions=num_partitions,
                held_out=held_out if is_trained_on else None,
                similarity=config.held_out_similarity or 0.0,
                tests=tests if is_trained_on else None,
                min_share=config.decontaminate.min_share if config.decontaminate else 1.0,
                finds_near=is_trained_on and config.near is not None,
                paragraphs=config.paragraphs if is_trained_on else None,
                mask=out / _file_of("masks", shard),
                cuts=out / _file_of("cuts", shard),
                clusters=out / _file_of(CLUSTERS, shard),
            )


def _finish_items(
    config: ParagraphsConfig | None,
    items: Sequence[ShardItem],
    looked: Sequence[Looked],
    earlier: Sequence[EarlierShard],
    directory: Path,
    executor: Executor,
) -> list[FinishItem]:
    """Find what is cut out of documents, if anything is, and return the items of the last pass."""
    if config is None:
        return [FinishItem(item, None) for item in items]
    own = [
        Tabled(
            one.num_documents,
            one.num_paragraphs,
            tuple(directory / name for name in one.paragraph_tables),
            item.near if item.finds_near else None,
        )
        for item, one in zip(items, looked, strict=True)
        if item.paragraphs
    ]
    bounds = iter(find_repeated_paragraphs(config, own, earlier, directory, executor))
    return [FinishItem(item, next(bounds) if item.paragraphs else None) for item in items]


def _file_of(directory: str, shard: CorpusShard) -> str:
    return f"{directory}/{shard.path.replace('/', '-').removesuffix('.jsonl.zst')}.npy"


def _list_masked(
    corpus: Artifact[CleanCorpus], items: Sequence[ShardItem], lost: Sequence[list[Lost]]
) -> Iterator[MaskedShard]:
    shards = (*corpus.manifest.shards, *corpus.manifest.held_out)
    for item, rows in zip(items, lost, strict=True):
        if rows:
            shard = shards[item.number]
            num_documents = sum(row[3] for row in rows if row[2] != CUT)
            yield MaskedShard(
                shard=shard.path,
                path=_file_of("masks", shard) if num_documents else "",
                num_documents=num_documents,
                cuts=_file_of("cuts", shard) if any(row[2] == CUT for row in rows) else "",
            )


def _count(
    corpus: Artifact[CleanCorpus], items: Sequence[ShardItem], lost: Sequence[list[Lost]]
) -> tuple[MaskCount, ...]:
    totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for item, rows in zip(items, lost, strict=True):
        is_held_out = item.number >= len(corpus.manifest.shards)
        for source, language, reason, num_documents, num_bytes in rows:
            total = totals[source, language]
            total["held out" if is_held_out else reason] += num_documents
            total["cut bytes" if reason == CUT else "bytes"] += 0 if is_held_out else num_bytes
    return tuple(
        MaskCount(
            source=source,
            language=language,
            dropped={reason: total[reason] for reason in REASONS if total[reason]},
            num_bytes=total["bytes"],
            num_held_out=total["held out"],
            num_cut_paragraphs=total[CUT],
            num_cut_bytes=total["cut bytes"],
        )
        for (source, language), total in sorted(totals.items())
    )


def _write_receipts(path: Path, items: Sequence[ShardItem]) -> None:
    """Join the receipts of the shards in one file."""
    with whole_file(path) as partial, partial.open("wb") as out:
        for item in items:
            if item.receipts.exists():
                with item.receipts.open("rb") as receipts:
                    shutil.copyfileobj(receipts, out)
