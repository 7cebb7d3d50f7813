"""The contract of a source: the Reader that each kind has, and the records it yields."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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


Digest = Callable[[Path], str]
"""A function that returns the SHA-256 of a file's bytes, in hex; it may cache what it computed."""


@dataclass(frozen=True)
class Reader:
    """How one kind of source is read. Every function takes that source's config first.

    All raise UserError if something is missing or broken as a whole, such as a truncated archive.
    """

    parts: Callable[[Any], tuple[str, ...]]
    """Names the source's independent parts, in a fixed order; each is one item of parallel work."""

    identity: Callable[[Any, Digest], JsonValue]
    """Says which bytes the parts hold now, such as versions or digests, without reading more than it must."""

    read: Callable[[Any, str], Iterator[Document | Unreadable]]
    """Yields the records of one part, in a fixed order."""
