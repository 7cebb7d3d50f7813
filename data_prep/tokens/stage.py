"""The stage that turns clean documents into token shards; each shard is one item of work."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.executor import Executor
from cluster.host.files import inside, whole_file
from configs.base import Artifact
from configs.data.stages import TokenizeConfig
from data_prep.cleaning.document_files import write_documents
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, CorpusShard, Segment, TokenizedCorpus, TokenShard, TrainedTokenizer
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import ShardMask, find_mask, mask_of, read_unmasked
from data_prep.sources.document import Document
from data_prep.tokenizer.stage import check_certificate
from data_prep.tokens.join import entropy, save_counts
from data_prep.tokens.megatron_shards import dtype_for, open_tokens, write_shard

BATCH_DOCUMENTS = 1000
"""Number of documents that are encoded in one call."""


@dataclass(frozen=True)
class _ShardItem:
    """One item of work: a shard of documents, and the prefix of the token shard to write."""

    documents: Path
    masked: ShardMask | None
    """Documents that are left out (data_prep/masks/reading.py)."""

    prefix: Path
    tokenizer: Artifact[TrainedTokenizer]


@dataclass(frozen=True)
class _SampleItem:
    """One item of work: choose of a shard of held-out documents what may be validated on."""

    shard: Path
    masked: ShardMask | None
    max_bytes: int


@dataclass(frozen=True)
class _TokenizedShard:
    segments: tuple[Segment, ...]
    counts: npt.NDArray[np.int64]
    """(vocab_size,) the number of times that each id occurs."""


def tokenize(
    config: TokenizeConfig,
    *,
    corpus: Artifact[CleanCorpus],
    tokenizer: Artifact[TrainedTokenizer],
    mask: Artifact[Mask] | None = None,
    out: Path,
    executor: Executor,
) -> TokenizedCorpus:
    """Write each document, in the order of the clean shards, and held-out ones: its ids, and the end-of-text id.

    A tokenizer that has a piece to begin a text puts its id before them. What the mask leaves out is left out.

    Raises UserError if the tokenizer's files are not those that were certified, or the mask is of another corpus.
    """
    check_certificate(tokenizer)
    mask = find_mask(corpus, [mask] if mask else [])
    made = tokenizer.manifest
    made_of = corpus.manifest.shards
    items = [
        _ShardItem(inside(corpus.dir, shard.path), mask_of(mask, shard), out / _shard_path(shard), tokenizer)
        for shard in made_of
    ]
    counts = np.zeros(made.vocab_size, dtype=np.int64)
    shards = []
    for shard, tokenized in zip(made_of, executor.map(_tokenize_shard, items, label="tokenizing"), strict=True):
        counts += tokenized.counts
        shards.append(TokenShard(path=_shard_path(shard), source=shard.source, segments=tokenized.segments))
    save_counts(out, counts)
    return TokenizedCorpus(
        shards=tuple(shards),
        validation=_write_validation(config, corpus, mask, tokenizer, out, executor),
        vocab_size=made.vocab_size,
        eos_id=made.eos_id,
        unigram_entropy=entropy(counts),
    )


def _write_validation(
    config: TokenizeConfig,
    corpus: Artifact[CleanCorpus],
    mask: Artifact[Mask] | None,
    tokenizer: Artifact[TrainedTokenizer],
    out: Path,
    executor: Executor,
) -> tuple[TokenShard, ...]:
    """Write a shard of held-out documents for each source that has some."""
    shards = corpus.manifest.held_out if config.validation_bytes else ()
    samples = [
        _SampleItem(inside(corpus.dir, shard.path), mask_of(mask, shard), config.validation_bytes) for shard in shards
    ]
    found = executor.map(_choose_held_out, samples, label="choosing what to validate on") if samples else []
    chosen = smallest_digests(chain.from_iterable(found), max_bytes=config.validation_bytes)
    items = {}
    for source, documents in groupby(chosen, key=lambda document: document.source):
        prefix = out / "validation" / source
        write_documents(prefix.with_name(f"{source}.jsonl.zst"), documents)
        items[source] = _ShardItem(prefix.with_name(f"{source}.jsonl.zst"), None, prefix, tokenizer)
    work = list(items.values())
    written = list(executor.map(_tokenize_shard, work, label="tokenizing what to validate on")) if work else []
    for item in work:
        item.documents.unlink()
    return tuple(
        TokenShard(path=f"validation/{source}", source=source, segments=tokenized.segments)
        for source, tokenized in zip(items, written, strict=True)
    )


def _choose_held_out(item: _SampleItem) -> list[Document]:
    return smallest_digests(read_unmasked(item.shard, item.masked), max_bytes=item.max_bytes)


def _shard_path(shard: CorpusShard) -> str:
    return f"tokens/{Path(shard.path).name.removesuffix('.jsonl.zst')}"


def _tokenize_shard(item: _ShardItem) -> _TokenizedShard:
    """Write one token shard. A finished one, which has a file of its segments beside it, is only read."""
    done = item.prefix.with_name(item.prefix.name + ".segments.json")
    if not done.exists():
        sizes: list[tuple[str, int, int]] = []
        write_shard(item.prefix, _encode_documents(item, sizes), dtype_for(item.tokenizer.manifest.vocab_size))
        rows = [_to_segment(language, list(group)) for language, group in groupby(sizes, key=lambda row: row[0])]
        with whole_file(done) as partial:
            partial.write_text(json.dumps([row.model_dump() for row in rows]), encoding="utf-8")
    segments = tuple(Segment.model_validate(row) for row in json.loads(done.read_text(encoding="utf-8")))
    return _TokenizedShard(
        segments, np.bincount(open_tokens(item.prefix), minlength=item.tokenizer.manifest.vocab_size)
    )


def _encode_documents(item: _ShardItem, sizes: list[tuple[str, int, int]]) -> Iterator[npt.NDArray[np.integer]]:
    """Yield each document's ids; add its (language, tokens, bytes) to `sizes`."""
    from data_prep.tokenizer.encoder import open_array_encoder

    encode, made = open_array_encoder(item.tokenizer.dir), item.tokenizer.manifest
    dtype = dtype_for(made.vocab_size)
    begin = np.array([] if made.bos_id is None else [made.bos_id], dtype=dtype)
    for batch in _batch_documents(read_unmasked(item.documents, item.masked)):
        for document, ids in zip(batch, encode([document.text for document in batch]), strict=True):
            whole = np.empty(len(begin) + len(ids) + 1, dtype=dtype)
            whole[: len(begin)], whole[len(begin) : -1], whole[-1] = begin, ids, made.eos_id
            sizes.append((document.language, len(whole), len(document.text.encode())))
            yield whole


def _batch_documents(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, BATCH_DOCUMENTS)):
        yield batch


def _to_segment(language: str, rows: list[tuple[str, int, int]]) -> Segment:
    return Segment(
        language=language,
        num_documents=len(rows),
        num_tokens=sum(row[1] for row in rows),
        num_bytes=sum(row[2] for row in rows),
    )
