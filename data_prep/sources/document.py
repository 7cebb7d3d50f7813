"""What a source yields: documents, and a note of each record it could not read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Document:
    """One text with where it came from. `id` is the same on every machine and in every run."""

    id: str
    text: str
    language: str
    source: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that gave no document. Counted, listed and bounded, never skipped in silence."""

    where: str
    """File and line, or the nearest thing to it."""

    reason: str
    """A short fixed word, such as `invalid_utf8`, `invalid_json`, `missing_field` or `not_text`."""


Digest = Callable[[Path], str]
"""SHA-256 of a file's bytes, in hex; the caller may remember it."""


@dataclass(frozen=True)
class Reader:
    """How one kind of source is read. Every function takes that source's config first.

    `parts` names independent pieces in a fixed order; `identity` says what their bytes are, without reading more
    than it must; `read` yields one part's records in a fixed order. All raise UserError if something is missing
    or broken as a whole, such as a truncated archive.
    """

    parts: Callable[[Any], tuple[str, ...]]
    identity: Callable[[Any, Digest], JsonValue]
    read: Callable[[Any, str], Iterator[Document | Unreadable]]
