"""Reading a corpus without the documents that a mask leaves out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress, islice
from pathlib import Path

import numpy as np

from cluster.host.files import inside
from configs.base import Artifact, UserError
from data_prep.cleaning.document_files import read_documents
from data_prep.manifests import CleanCorpus, CorpusCount, CorpusShard
from data_prep.masks.manifest import IN_EARLIER_SOURCE, Mask, MaskCount
from data_prep.sources.document import Document


def find_mask(corpus: Artifact[CleanCorpus], masks: Sequence[Artifact[Mask]]) -> Artifact[Mask] | None:
    """Return the mask of a corpus; None if there are no masks. Raises UserError if they are of other corpora."""
    name = corpus.dir.resolve().name
    found = [mask for mask in masks if mask.manifest.corpus == name]
    if masks and not found:
        raise UserError(f"no mask is one of {name}; name as `mask` the step that deduplicates it")
    return found[0] if found else None


def mask_file(mask: Artifact[Mask] | None, shard: CorpusShard) -> Path | None:
    """Return the file of the documents that are left out of a shard; None if it has none."""
    found = [one.path for one in mask.manifest.shards if one.shard == shard.path] if mask else []
    return inside(mask.dir, found[0]) if mask and found else None


def read_held_out(corpus: Artifact[CleanCorpus], mask: Artifact[Mask] | None = None) -> Iterator[Document]:
    """Yield the held-out documents of a corpus, without those that its mask leaves out."""
    for shard in corpus.manifest.held_out:
        yield from read_unmasked(inside(corpus.dir, shard.path), mask_file(mask, shard))


def read_unmasked(shard: Path, masked: Path | None) -> Iterator[Document]:
    """Yield the documents of a shard, in order, without those that a file leaves out."""
    documents = read_documents(shard)
    if masked is None:
        return documents
    rows = np.load(masked)
    keep = np.ones(int(rows.max()) + 1, dtype=bool)
    keep[rows] = False
    return _filter(documents, keep.tolist())


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
            "kept_bytes": count.kept_bytes - lost.num_bytes,
        }
    )
