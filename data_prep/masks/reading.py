"""Reading a corpus without the documents that a mask leaves out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.host.files import inside
from configs.base import Artifact, UserError
from data_prep.cleaning.document_files import read_documents
from data_prep.manifests import CleanCorpus, CorpusCount, CorpusShard
from data_prep.masks.manifest import IN_EARLIER_SOURCE, Mask, MaskCount
from data_prep.masks.paragraphs import cut
from data_prep.sources.document import Document


def find_mask(corpus: Artifact[CleanCorpus], masks: Sequence[Artifact[Mask]]) -> Artifact[Mask] | None:
    """Return the mask of a corpus; None if there are no masks. Raises UserError if they are of other corpora."""
    name = corpus.dir.resolve().name
    found = [mask for mask in masks if mask.manifest.corpus == name]
    if masks and not found:
        raise UserError(f"no mask is one of {name}; name as `mask` the step that deduplicates it")
    return found[0] if found else None


@dataclass(frozen=True)
class ShardMask:
    """What is left out of a shard."""

    rows: Path | None
    """File of the numbers of documents."""

    cuts: Path | None
    """File of what is cut out of others."""


def mask_of(mask: Artifact[Mask] | None, shard: CorpusShard) -> ShardMask | None:
    """Return what a mask leaves out of a shard; None if it leaves out nothing."""
    found = [one for one in mask.manifest.shards if one.shard == shard.path] if mask else []
    if mask is None or not found:
        return None
    rows, cuts = (inside(mask.dir, path) if path else None for path in (found[0].path, found[0].cuts))
    return ShardMask(rows, cuts)


def read_held_out(corpus: Artifact[CleanCorpus], mask: Artifact[Mask] | None = None) -> Iterator[Document]:
    """Yield the held-out documents of a corpus, without those that its mask leaves out."""
    for shard in corpus.manifest.held_out:
        yield from read_unmasked(inside(corpus.dir, shard.path), mask_of(mask, shard))


def read_unmasked(shard: Path, masked: ShardMask | None) -> Iterator[Document]:
    """Yield the documents of a shard, in order, without those, and the paragraphs, that are left out."""
    documents = read_documents(shard)
    if masked and masked.cuts:
        documents = _cut(documents, np.load(masked.cuts))
    if masked is None or masked.rows is None:
        return documents
    rows = np.load(masked.rows)
    keep = np.ones(int(rows.max()) + 1, dtype=bool)
    keep[rows] = False
    return _filter(documents, keep.tolist())


def _cut(documents: Iterator[Document], cuts: npt.NDArray[np.uint32]) -> Iterator[Document]:
    """Yield documents without what is cut out of them."""
    rows, starts = np.unique(cuts[:, 0], return_index=True)
    bounds = dict(zip(rows.tolist(), pairwise([*starts.tolist(), len(cuts)]), strict=True))
    for row, document in enumerate(documents):
        if (own := bounds.get(row)) is not None:
            document = replace(document, text=cut(document.text, cuts[own[0] : own[1], 1:].tolist()))
        yield document


def _filter(documents: Iterator[Document], keep: list[bool]) -> Iterator[Document]:
    yield from compress(islice(documents, len(keep)), keep)
    yield from documents


def masked_counts(corpora: Sequence[CleanCorpus], masks: Sequence[Mask]) -> tuple[CorpusCount, ...]:
    """Return the counts of corpora with what their masks leave out among the dropped."""
    lost = {(count.source, count.language): count for mask in masks for count in mask.counts}
    return tuple(_without(count, lost.get((count.source, count.language))) for one in corpora for count in one.counts)


def _without(count: CorpusCount, lost: MaskCount | None) -> CorpusCount:
    if lost is None:
        return count
    dropped = Counter(count.dropped) + Counter(lost.dropped) + Counter({IN_EARLIER_SOURCE: lost.num_held_out})
    return count.model_copy(
        update={
            "num_kept": count.num_kept - sum(lost.dropped.values()),
            "num_held_out": count.num_held_out - lost.num_held_out,
            "dropped": dict(dropped),
            "kept_bytes": count.kept_bytes - lost.num_bytes - lost.num_cut_bytes,
        }
    )
