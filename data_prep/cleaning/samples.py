"""Samples of what filters drop: for a person to judge whether they should."""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import orjson
import xxhash

from cluster.host.files import whole_file
from data_prep.cleaning.treatment import Treated
from data_prep.sources.document import Document

SAMPLES = 3
"""Documents of each source, language and reason whose beginning is kept."""

SAMPLE_CHARACTERS = 400


class SampleRow(NamedTuple):
    """The beginning of a document that was dropped."""

    rank: int
    """A hash of the document's id: the least are kept, in whatever order documents are read."""

    language: str
    reason: str
    id: str
    value: float
    bound: float
    text: str


class Samples:
    """The samples of a piece, or of a source."""

    def __init__(self) -> None:
        self._heaps: defaultdict[tuple[str, str], list[tuple[int, str, SampleRow]]] = defaultdict(list)

    def take(self, document: Document, treated: Treated) -> None:
        """Take a document that a filter drops."""
        dropping = treated.dropping
        assert dropping is not None
        rank = xxhash.xxh3_64_intdigest(document.id.encode("utf-8", "surrogatepass"))
        heap = self._heaps[treated.language, dropping.reason]
        if len(heap) < SAMPLES or -rank > heap[0][0]:
            text = treated.text[:SAMPLE_CHARACTERS]
            values = round(dropping.value, 4), dropping.bound
            self.add([SampleRow(rank, treated.language, dropping.reason, document.id, *values, text)])

    def add(self, rows: Iterable[SampleRow]) -> None:
        """Take samples that others have taken."""
        for row in rows:
            heap = self._heaps[row.language, row.reason]
            heapq.heappush(heap, (-row.rank, row.id, row))
            if len(heap) > SAMPLES:
                heapq.heappop(heap)

    def rows(self) -> list[SampleRow]:
        """Return the samples by language and reason."""
        return [row for _, heap in sorted(self._heaps.items()) for _, _, row in sorted(heap, reverse=True)]


def write_samples(path: Path, by_source: Iterable[tuple[str, Samples]]) -> None:
    """Write the samples of sources, a JSON object a line."""
    with whole_file(path) as partial, partial.open("wb") as out:
        for source, samples in by_source:
            for row in samples.rows():
                fields = {key: value for key, value in row._asdict().items() if key != "rank"}
                line = {"contains_text": True, "source": source, **fields}
                out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
