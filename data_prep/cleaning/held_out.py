"""Held-out documents: which are, by the digest of their text; the sets of other corpora; samples of them to score.

A document is held out iff the digest of its normalised text, read as a fraction, is below a share that the recipe fixes
for its source and language. It does not depend on what else a corpus holds, so what was held out stays so when a corpus
grows or is made anew, and a sample of the smallest digests does, too.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from pydantic import BaseModel, JsonValue, ValidationError

from cluster.host.files import inside
from configs.base import UserError
from data_prep.manifests import CleanCorpus
from data_prep.sources.document import Document

DIGEST_BYTES = 16
"""Length of a document's digest (BLAKE2b of its normalised text), by which duplicates are found."""

SHARD_DIGEST_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""A document of a shard: its digest as two numbers, its place in the shard. Beside a shard they lie by digest."""

_RECORD = "record.json"


def digest_of(text: str) -> bytes:
    """Return the digest of a normalised text."""
    return digest_bytes(text.encode())


def digest_bytes(encoded: bytes) -> bytes:
    """Return the digest of a normalised text in UTF-8."""
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def is_below_share(digest: bytes, share: float) -> bool:
    """Return whether a document is held out: whether its digest, read as a fraction by 53 bits, is below a share."""
    return (int.from_bytes(digest[:8]) >> 11) * 2.0**-53 < share


def smallest_digests(
    documents: Iterable[Document], limit: int | None = None, *, max_bytes: float = math.inf
) -> list[Document]:
    """Return of each source and language the documents with the smallest digests, in the order of these.

    They are at most `limit`, and as many as have no more than `max_bytes` bytes of UTF-8 in all. A larger corpus, or
    limit, changes the sample by what is added to it alone.
    """
    samples: defaultdict[tuple[str, str], _Sample] = defaultdict(lambda: _Sample(limit, max_bytes))
    for document in documents:
        samples[document.source, document.language].add(document)
    return [document for key in sorted(samples) for document in samples[key].documents()]


class _Sample:
    """The documents of the smallest digests among those added so far, within limits."""

    def __init__(self, limit: int | None, max_bytes: float) -> None:
        self._limit, self._max_bytes = math.inf if limit is None else limit, max_bytes
        self._heap: list[tuple[int, int, int, Document]] = []  # minus digest, number, bytes
        self._num_bytes = self._num_added = 0
        self._least_refused = math.inf

    def add(self, document: Document) -> None:
        digest, size = int.from_bytes(digest_of(document.text)), len(document.text.encode())
        self._num_added += 1
        if digest >= self._least_refused:
            return
        heappush(self._heap, (-digest, self._num_added, size, document))
        self._num_bytes += size
        while self._heap and (len(self._heap) > self._limit or self._num_bytes > self._max_bytes):
            refused, _, size, _ = heappop(self._heap)
            self._num_bytes -= size
            self._least_refused = -refused  # what comes after it in the order of digests does not come in any more

    def documents(self) -> list[Document]:
        return [entry[3] for entry in sorted(self._heap, reverse=True)]


class _Record(BaseModel):
    """The part of an artifact's record that is read here; pipeline/store/artifact.py has the whole format."""

    stage: str
    fingerprint: str
    manifest: dict[str, JsonValue]


def observe_held_out(paths: Sequence[str]) -> list[JsonValue]:
    """Return the identities of the corpora at `paths`. Raises UserError if one is no finished clean corpus."""
    return [_read_record(Path(path)).fingerprint for path in paths]


def find_held_out_digests(paths: Sequence[str]) -> tuple[Path, ...]:
    """Return the files of digests of what the corpora at `paths` hold out."""
    found: list[Path] = []
    for path in paths:
        record = _read_record(Path(path))
        try:
            manifest = CleanCorpus.model_validate(record.manifest)
        except ValidationError:
            raise UserError(
                f"held_out.against: {path} was made by another version of Concord; have it made again"
            ) from None
        found += [inside(Path(path), shard.digests).absolute() for shard in manifest.held_out]
    return tuple(found)


def _read_record(path: Path) -> _Record:
    try:
        record = _Record.model_validate(json.loads((path / _RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"held_out.against: {path} is no finished artifact of stage `clean` (seen from {Path.cwd()}): name its "
            "directory in a store, which holds record.json"
        ) from error
    if record.stage != "clean":
        raise UserError(f"held_out.against: {path} was made by stage {record.stage!r}; name an artifact of `clean`")
    return record
