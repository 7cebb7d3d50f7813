"""The contract of a source: the Reader that each kind has, and the records it yields."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its origin. `id` is the same on every machine and in every run."""

    id: str
    text: str
    language: str
    source: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that gave no document. Counted, listed and bounded, never skipped in silence."""

    where: str
    """File and line, or the nearest to it that the source has."""

    reason: str
    """A short fixed word, such as `invalid_utf8`, `invalid_json`, `missing_field` or `not_text`."""

    detail: str = ""
    """What would help to mend it, such as the fields that are there; empty if the reason says all."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is no text to train on, such as a page that was not found. It is counted among what is dropped."""

    reason: str
    """A short fixed word."""

    language: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A file begins, or a member of an archive: what follows is of it. A reader that never says so reads one file."""

    file: str
    """Its displayed name."""


Record = Document | Unreadable | Dropped
"""What becomes of a record of a source."""

Entry = Record | Opened
"""What a reader yields."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive records of a source: those of a file, or of a range of it."""

    name: str
    """The file, or what the source has in its place; it opens from any directory."""

    num_bytes: int = 0
    """How much there is to read, as stored; 0 if that is not known."""

    start: int = 0
    """Where the range begins, in the unit of the source's kind: bytes of lines, row groups of Parquet, rows."""

    stop: int | None = None
    """Where it ends; None: at the end of the file."""

    first: int = 1
    """The number, in the file, of the first line or record of the range."""

    version: str = ""
    """What tells the bytes of a file behind a URL from others; empty if its server does not say, or for other files."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a file."""
        return self.start == 0 and self.stop is None


@dataclass(frozen=True, slots=True)
class LineCut:
    """Where the lines of a range of bytes begin: what its neighbours have to know to share a file's lines."""

    start: int | None
    """Byte of the first line, or the first document, that begins in the range; None if none does."""

    lines_before: int
    """Line feeds between the range's first byte and `start`."""

    num_lines: int
    """Line feeds in the range."""


Digest = Callable[[Path], str]
"""A function that returns the SHA-256 of a file's bytes, in hex; it may cache what it computed."""


@dataclass(frozen=True)
class Reader:
    """How one kind of source is read. Every function takes that source's config first.

    All raise UserError if something is missing or broken as a whole, such as a truncated archive.
    """

    spans: Callable[[Any], tuple[Span, ...]]
    """Lists what there is to read, each file once, in a fixed order. Of a dataset on a hub it asks the network."""

    identity: Callable[[Any, Digest], JsonValue]
    """Says which bytes these hold now, such as versions or digests, without reading more than it must."""

    read: Callable[[Any, Span], Iterator[Entry]]
    """Yields the records of a span, in a fixed order."""

    split: Callable[[Any, Span, int], tuple[Span, ...]] | None = None
    """Cuts a whole file into spans of about so many bytes, in order; None if this kind is read from its beginning."""

    cut: Callable[[Any, Span], LineCut] | None = None
    """Finds where the lines of a span of bytes begin. With it the spans of `split` are ranges of bytes, which may cut a
    line, until `settle` has moved their ends."""

    is_file_a_document: Callable[[Any], bool] = lambda config: False
    """Whether a file, or a member of an archive, is one document. Then archives are counted, not their members."""


def settle(spans: Sequence[Span], cuts: Sequence[LineCut]) -> tuple[Span, ...]:
    """Return the ranges of one file moved to where lines begin, with the numbers of their first lines."""
    numbers = accumulate((cut.num_lines for cut in cuts[:-1]), initial=1)
    found = [
        replace(span, start=cut.start, first=number + cut.lines_before)
        for span, cut, number in zip(spans, cuts, numbers, strict=True)
        if cut.start is not None
    ]
    stops = [*(span.start for span in found[1:]), None]
    return tuple(replace(span, stop=stop) for span, stop in zip(found, stops, strict=True))
