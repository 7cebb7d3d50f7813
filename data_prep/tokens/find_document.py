"""Find the tokens of a document by its id, or say what became of it; and the documents of given tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from zstandard import ZstdError

from cluster.host.files import inside
from cluster.storage.errors import error_class
from configs.base import Artifact, UserError
from data_prep.cleaning.document_files import read_documents
from data_prep.manifests import CleanCorpus, TokenizedCorpus
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import ShardMask, mask_of, read_unmasked
from data_prep.tokens.megatron_shards import document_lengths


@dataclass(frozen=True)
class TokenRange:
    """Tokens `start` to `stop - 1` of a stream, which is all shards of a source in a language, end to end."""

    source: str
    language: str
    start: int
    stop: int


def find_document(
    name: str,
    *,
    corpus: Artifact[CleanCorpus],
    tokens: Artifact[TokenizedCorpus],
    mask: Artifact[Mask] | None = None,
) -> list[TokenRange]:
    """Return the tokens of each document whose id is `name`: one range, unless the source gave an id twice.

    It reads all documents of one source. Raises UserError if the document is not in the training text, and says what
    became of it.
    """
    source = name.partition("/")[0]  # every reader begins an id with the source's name
    known = {count.source for count in corpus.manifest.counts}
    if source not in known:
        raise UserError(
            f"document {name!r} is of no source of {corpus.dir.name}: an id is the name of its source, a slash and "
            f"its name there, and the sources are {', '.join(sorted(known))}"
        )
    try:
        found = list(_find_ranges(name, source, corpus, tokens, mask))
    except (OSError, ValueError, ZstdError) as error:
        raise error_class(error)(
            f"the text or tokens of {corpus.dir.name} and {tokens.dir.name} cannot be read "
            f"({' '.join(str(error).split())}); delete the damaged artifact to have it made again"
        ) from error
    if found:
        return found
    why = _explain_absence(name, source, corpus, mask)
    raise UserError(f"document {name!r} is not in the training text: {why}")


@dataclass(frozen=True)
class DocumentPart:
    """A part of a document: of its tokens, those from `start` to `stop - 1`."""

    document: str
    """Its id."""

    start: int
    stop: int
    num_tokens: int
    """Number of tokens of the whole document."""


def name_documents(
    source: str,
    language: str,
    ranges: Sequence[tuple[int, int]],
    *,
    corpus: Artifact[CleanCorpus],
    tokens: Artifact[TokenizedCorpus],
    mask: Artifact[Mask] | None = None,
) -> list[list[DocumentPart]]:
    """Return, for ranges of tokens of a stream, which parts of which documents each holds, in order.

    It reads the shards of text that the tokens were made from.
    """
    found: list[list[DocumentPart]] = [[] for _ in ranges]
    before = 0
    for documents, shard in zip(corpus.manifest.shards, tokens.manifest.shards, strict=True):
        start = 0
        for segment in shard.segments if shard.source == source else ():
            if segment.language == language:
                shift = before - start
                inside_shard = [
                    (number, max(a - shift, start), min(b - shift, start + segment.num_tokens))
                    for number, (a, b) in enumerate(ranges)
                ]
                wanted = [one for one in inside_shard if one[1] < one[2]]
                if wanted:
                    prefix, text = inside(tokens.dir, shard.path), inside(corpus.dir, documents.path)
                    parts = _name_parts(prefix, text, mask_of(mask, documents), wanted)
                    for number, part in parts:
                        found[number].append(part)
                before += segment.num_tokens
            start += segment.num_tokens
    return found


def _name_parts(
    prefix: Path, text: Path, masked: ShardMask | None, wanted: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, DocumentPart]]:
    """Yield the parts of documents in ranges of tokens of a shard, each with the number of its range."""
    lengths = document_lengths(prefix)
    stops = np.cumsum(lengths)
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for number, a, b in wanted:
        for row in range(
            int(np.searchsorted(stops, a, side="right")), int(np.searchsorted(stops, b - 1, side="right")) + 1
        ):
            rows.setdefault(row, []).append((number, a, b))
    for row, document in enumerate(islice(read_unmasked(text, masked), max(rows) + 1)):
        begin = int(stops[row] - lengths[row])
        for number, a, b in rows.get(row, ()):
            part = max(a, begin) - begin, min(b, int(stops[row])) - begin
            yield number, DocumentPart(document.id, *part, int(lengths[row]))


def _find_ranges(
    name: str,
    source: str,
    corpus: Artifact[CleanCorpus],
    tokens: Artifact[TokenizedCorpus],
    mask: Artifact[Mask] | None,
) -> Iterator[TokenRange]:
    before: dict[str, int] = {}
    """Language -> number of tokens of its stream in the shards before."""
    for documents, shard in zip(corpus.manifest.shards, tokens.manifest.shards, strict=True):
        if shard.source != source:
            continue
        shift, start = {}, 0  # from a token's number in the shard to its number in the stream
        for segment in shard.segments:
            shift[segment.language] = before.get(segment.language, 0) - start
            start += segment.num_tokens
            before[segment.language] = before.get(segment.language, 0) + segment.num_tokens
        lengths = document_lengths(inside(tokens.dir, shard.path)).tolist()
        read = read_unmasked(inside(corpus.dir, documents.path), mask_of(mask, documents))
        for document, length, stop in zip(read, lengths, accumulate(lengths), strict=True):
            if document.id == name:
                end = stop + shift[document.language]
                yield TokenRange(source, document.language, end - length, end)


def _explain_absence(name: str, source: str, corpus: Artifact[CleanCorpus], mask: Artifact[Mask] | None) -> str:
    manifest = corpus.manifest
    for record in manifest.unreadable:
        if name == f"{source}/{record.where}":
            return f"it could not be read ({record.reason})"
    masked = {one.shard for one in mask.manifest.shards} if mask else set()
    for shard in manifest.shards:
        if shard.path in masked and any(d.id == name for d in read_documents(inside(corpus.dir, shard.path))):
            return (
                "its mask leaves it out: an earlier source has the same text, a held-out or another document nearly "
                "the same, or it has an item of a test set"
            )
    held_out = (shard for shard in manifest.held_out if shard.source == source)
    if any(document.id == name for shard in held_out for document in read_documents(inside(corpus.dir, shard.path))):
        return "it was held out for evaluation"
    reasons = sorted({reason for count in manifest.counts if count.source == source for reason in count.dropped})
    dropped = f"it was dropped ({' or '.join(reasons)}), or " if reasons else "it "
    return f"{dropped}was never in source {source!r}; ids are compared letter by letter"
