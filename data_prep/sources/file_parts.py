"""Shared by the sources that read files: expand patterns to files, read lines and bytes, make the user's errors.

A span's name is the file's absolute path. Where the user wrote a relative path, `/./` stands between the directory that
the command was run in and the name as the user's pattern matched it (the convention of rsync's --relative):
`/home/ann/run/./data/x.jsonl`. It opens from any directory, and `display_name` gives the name back for ids and
messages.
"""

import glob
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

from cluster.storage.errors import error_class
from configs.base import UserError
from configs.data import JsonLinesSource, ParquetSource, PlainTextSource
from data_prep.sources.content import (
    BOM,
    DAMAGE,
    HEAD_BYTES,
    describe_other_format,
    is_compressed,
    read_chunks,
    split_lines,
)
from data_prep.sources.document import Digest, LineCut, Span

FileSource = JsonLinesSource | ParquetSource | PlainTextSource

_CHUNK_BYTES = 2**20


def list_files(config: FileSource) -> tuple[Span, ...]:
    """Return each file that `paths` names, once, sorted by name, relative names first.

    Raises UserError if a pattern matches nothing, or anything but a file.
    """
    names = {name for pattern in config.paths for name in _match_pattern(config.name, pattern)}
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (os.path.isabs(name), name)):
        found.setdefault(os.path.abspath(name), _to_part(name))
    return tuple(Span(part, os.stat(part).st_size) for part in found.values())


def digest_files(config: FileSource, digest: Digest) -> JsonValue:
    """Return the digest of every file, by its displayed name."""
    return {display_name(span.name): digest_part(config.name, span.name, digest) for span in list_files(config)}


def display_name(part: str) -> str:
    """Return the file's name as the user's pattern matched it."""
    return part.partition("/./")[2] or part


def digest_part(source: str, part: str, digest: Digest) -> str:
    """Return the digest of one file. Raises what `cannot_open` makes if the file cannot be read."""
    try:
        return digest(Path(part))
    except OSError as error:
        raise cannot_open(source, part, error) from error


def split_by_lines(config: FileSource, span: Span, num_bytes: int) -> tuple[Span, ...]:
    """Cut a file of lines into ranges of about `num_bytes`; one that is compressed is a single range.

    The ranges may cut a line; `find_first_line`, and `settle`, move their ends.
    """
    if span.num_bytes <= num_bytes * 3 // 2:
        return (span,)
    with _explained(config.name, span.name), open(span.name, "rb") as file:
        if is_compressed(file.read(HEAD_BYTES)):
            return (span,)
    number = round(span.num_bytes / num_bytes)
    bounds = [span.num_bytes * i // number for i in range(number + 1)]
    return tuple(replace(span, start=a, stop=b, num_bytes=b - a) for a, b in pairwise(bounds))


def find_first_line(config: FileSource, span: Span, *, after_blank: bool = False) -> LineCut:
    """Find the first line that begins in a range; with `after_blank` the first of them that follows a blank line."""
    assert span.stop is not None
    with _explained(config.name, span.name), open(span.name, "rb") as file:
        start, lines_before = _find_start(file, span.start, span.stop, after_blank=after_blank)
        file.seek(span.start)
        num_lines, left = 0, span.stop - span.start
        while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
            num_lines, left = num_lines + chunk.count(b"\n"), left - len(chunk)
    return LineCut(start, lines_before, num_lines)


def _find_start(file: BinaryIO, start: int, stop: int, *, after_blank: bool) -> tuple[int | None, int]:
    """Return where the first line begins in a range, if one does, and the line feeds before it in the range."""
    if start == 0:
        return 0, 0
    file.seek(start - 1)
    line = file.readline(stop - start + 1)  # what is left of the line that holds the byte before the range
    num_lines = 0 if line == b"\n" else 1
    while after_blank and line.endswith(b"\n"):
        line = file.readline(stop - file.tell())
        num_lines += 1
        after_blank = bool(line.strip())
    found = line.endswith(b"\n") and file.tell() < stop
    return (file.tell() if found else None), num_lines


def read_lines(source: str, span: Span) -> Iterator[tuple[int, bytes]]:
    r"""Yield each line of a span with its number in the file, without `\n` or `\r\n`.

    Memory is bounded by the longest line. Raises UserError if the file cannot be read, its compression is damaged, or
    it holds another format than lines of text.
    """
    number = span.first - 1
    try:
        for number, line in enumerate(split_lines(_chunks_of(source, span)), span.first):
            yield number, line
    except DAMAGE as error:
        raise damaged(source, span.name, after=f" after line {number}") from error
    except OSError as error:
        raise cannot_open(source, span.name, error) from error


def read_bytes(source: str, span: Span) -> bytes:
    """Read the whole file, decompressed, without a byte-order mark. Raises UserError as `read_lines` does."""
    try:
        return b"".join(_chunks_of(source, span))
    except DAMAGE as error:
        raise damaged(source, span.name) from error
    except OSError as error:
        raise cannot_open(source, span.name, error) from error


def damaged(source: str, part: str, *, after: str = "", what: str = "is") -> UserError:
    """Return the error for a file that breaks off or does not decode."""
    remedy = "fetch it again or take it out of `paths`"
    return UserError(f"source '{source}': {display_name(part)} {what} truncated or damaged{after}; {remedy}")


def cannot_open(source: str, part: str, error: OSError) -> UserError:
    """Return the error for a file that is gone or not readable by this user: InfrastructureError if that may pass."""
    cause = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    where = f"source '{source}': {display_name(part)}"
    return error_class(error)(f"{where} cannot be read ({cause}); mend that or take it out")


@contextmanager
def _explained(source: str, part: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_open(source, part, error) from error


def _match_pattern(source: str, pattern: str) -> list[str]:
    names = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    if not names:
        raise UserError(
            f"source '{source}': nothing matches '{pattern}' in {os.getcwd()}; mend it or take it out of `paths`"
        )
    for name in names:
        if not os.path.isfile(name):
            what = "is a directory" if os.path.isdir(name) else "is not a file"
            raise UserError(
                f"source '{source}': '{name}' {what}; write a pattern that matches files only, such as '*.txt'"
            )
        if "\n" in name or name.encode(errors="replace").decode() != name:
            raise UserError(f"source '{source}': {name!a} is not one line of UTF-8; rename the file")
    return names


def _to_part(name: str) -> str:
    return re.sub(r"/(\./)+", "/", name) if os.path.isabs(name) else f"{os.getcwd()}/./{name}"


def _chunks_of(source: str, span: Span) -> Iterator[bytes]:
    """Yield the bytes of a span, in UTF-8. Raises one of DAMAGE, or UserError if the file holds no text."""
    with open(span.name, "rb") as file:
        if not span.is_whole:
            yield from _read_range(file, span.start, span.stop)
            return
        head = file.read(HEAD_BYTES)
        if not is_compressed(head):
            _check_format(source, span.name, head)
        file.seek(0)
        chunks = read_chunks(file, span.name)
        first = next(chunks, b"")
        _check_format(source, span.name, first[:HEAD_BYTES])
        yield from chain((first,), chunks)


def _read_range(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    file.seek(start)
    left = sys.maxsize if stop is None else stop - start
    while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk.removeprefix(BOM) if start == 0 and file.tell() == len(chunk) else chunk


def _check_format(source: str, part: str, head: bytes) -> None:
    if (meaning := describe_other_format(head)) is not None:
        raise UserError(f"source '{source}': {display_name(part)} is {meaning}")
