"""The manifest of the stage that finds what of a corpus is left out of training."""

from collections import Counter

from configs.base import Manifest
from data_prep.manifests import Entry

IN_EARLIER_SOURCE, NEAR_HELD_OUT, CONTAMINATED = "in_earlier_source", "near_held_out", "contaminated"
NEAR_DUPLICATE, REPEATED_PARAGRAPHS = "near_duplicate", "repeated_paragraphs"
"""Why a mask leaves a document out: an earlier source has it; it is nearly a held-out one; it has an item of a test
set; it is nearly another document of its source, or of an earlier one; too little of it remains without paragraphs that
documents before it have."""


class MaskedShard(Entry):
    """A shard of a corpus with documents that are left out."""

    shard: str
    """Path of the shard in the corpus."""

    path: str
    """File of the numbers of the documents, in order: a uint32 array of NumPy; empty if none is left out whole."""

    num_documents: int
    cuts: str = ""
    """File of what is cut out of other documents: a uint32 array of NumPy, (n, 3), of the number of a document and
    where in its text, in characters, a paragraph begins and ends, in order; empty if nothing is."""


class MaskCount(Entry):
    """What is left out of one source in one language."""

    source: str
    language: str
    dropped: dict[str, int]
    """Reason -> number of documents, of those that are not held out."""

    num_bytes: int
    """UTF-8 bytes of their texts."""

    num_cut_paragraphs: int = 0
    """Paragraphs that are cut out of documents that stay."""

    num_cut_bytes: int = 0
    """UTF-8 bytes of these."""

    num_held_out: int
    """Held-out documents that an earlier corpus has."""


class ContaminationCount(Entry):
    """What was found of a test set, in one language, in a corpus."""

    test: str
    language: str
    num_items: int
    num_too_short: int
    """Items with fewer than 8 words, or 16 letters in scripts without spaces, which are not looked for."""

    num_found: int
    """Items that a document of the corpus has."""

    num_documents: int
    """Documents of the corpus that have one; some may have been left out for another reason before."""


class Mask(Manifest):
    """Documents of a corpus that are left out: those of earlier corpora, held-out ones too, near copies of what is held
    out or of each other, and those with items of test sets."""

    corpus: str
    """Name in the store of the corpus."""

    shards: tuple[MaskedShard, ...]
    counts: tuple[MaskCount, ...]
    """One entry for each source and language that loses documents."""

    tests: tuple[ContaminationCount, ...] = ()
    """The receipt of the test sets that were looked for."""

    receipts: str = ""
    """File of what documents have of items of test sets, which holds text of both; empty if none were looked for."""

    clusters: str = ""
    """Directory of the kept documents that have near copies: for each shard a uint32 array of NumPy, (n, 2), of their
    numbers and the sizes of their clusters; empty if near copies were not looked for."""

    cluster_sizes: tuple[int, ...] = ()
    """Clusters of 2, 3, 4, ... documents."""

    def summary(self) -> str:
        reasons = Counter[str]()
        for count in self.counts:
            reasons.update(count.dropped)
        held_out = sum(c.num_held_out for c in self.counts)
        size = sum(c.num_bytes + c.num_cut_bytes for c in self.counts)
        more = f", {reasons[NEAR_DUPLICATE]:,} near copies of others" if self.clusters else ""
        if cut := sum(count.num_cut_paragraphs for count in self.counts):
            more += f", {cut:,} paragraphs and {reasons[REPEATED_PARAGRAPHS]:,} documents of such"
        more += f", {reasons[CONTAMINATED]:,} with items of test sets" if self.tests else ""
        return (
            f"left out: {reasons[IN_EARLIER_SOURCE]:,} documents of earlier sources, {reasons[NEAR_HELD_OUT]:,} near "
            f"copies of held-out ones{more} ({size / 1e6:,.2f} MB), {held_out:,} held out of earlier sources"
        )
