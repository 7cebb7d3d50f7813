"""Shared by the sources that read files: read lines, bytes and members of archives, make the user's errors.

A span's name is the file's absolute path. Where the user wrote a relative path, `/./` stands between the directory that
the command was run in and the name as the user's pattern matched it (the convention of rsync's --relative):
`/home/ann/run/./data/x.jsonl`. It opens from any directory, and `display_name` gives the name back for ids and
messages.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import BinaryIO

from cluster.storage.errors import error_class
from configs.base import UserError
from configs.data.sources import (
    CsvSource,
    JsonLinesSource,
    LatexSource,
    MarkupSource,
    ParquetSource,
    PlainTextSource,
    WarcSource,
)
from data_prep.sources.content import (
    BOM,
    DAMAGE,
    HEAD_BYTES,
    Rewound,
    describe_other_format,
    is_compressed,
    is_tar,
    read_chunks,
    read_members,
    split_lines,
)
from data_prep.sources.document import LineCut, Span, Unreadable
from data_prep.sources.remote_files import is_url, open_file

FileSource = JsonLinesSource | ParquetSource | PlainTextSource | CsvSource | MarkupSource | LatexSource | WarcSource

_CHUNK_BYTES = 2**20
MAX_DOCUMENT_BYTES = 2**28
"""A file that is one document and has more is unreadable."""

_MAX_ARCHIVES = 4
"""Archives within archives that are followed."""


def display_name(part: str) -> str:
    """Return the file's name as the user's pattern matched it."""
    return part if is_url(part) else part.partition("/./")[2] or part


def split_by_lines(config: FileSource, span: Span, num_bytes: int) -> tuple[Span, ...]:
    """Cut a file of lines into ranges of about `num_bytes`; one that is no plain text is a single range.

    The ranges may cut a line; `find_first_line`, and `settle`, move their ends.
    """
    if span.num_bytes <= num_bytes * 3 // 2:
        return (span,)
    with explain_refusal(config.name, span.name), open_file(span.name) as file:
        head = file.read(HEAD_BYTES)
        if is_compressed(head) or is_tar(head) or describe_other_format(head):
            return (span,)  # what is to be refused, too: the beginning alone shows what it is
    number = round(span.num_bytes / num_bytes)
    bounds = [span.num_bytes * i // number for i in range(number + 1)]
    return tuple(replace(span, start=a, stop=b, num_bytes=b - a) for a, b in pairwise(bounds))


def find_first_line(config: FileSource, span: Span, *, after_blank: bool = False) -> LineCut:
    """Find the first line that begins in a range; with `after_blank` the first of them that follows a blank line."""
    assert span.stop is not None
    with explain_refusal(config.name, span.name), open_file(span.name) as file:
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


def read_lines(source: str, span: Span) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
    r"""Yield the name and the lines, numbered and without `\n` or `\r\n`, of the file of a span.

    Of a tar archive the files are its members; the lines of one are to be read before the next is asked for. Memory is
    bounded by the longest line. Raises UserError if the file cannot be read, its compression is damaged, or it holds
    another format than lines of text.
    """
    for file in open_files(source, span):
        yield file.name, _number_lines(source, span, file)


def _number_lines(source: str, span: Span, file: "TextFile") -> Iterator[tuple[int, bytes]]:
    with explain_damage(source, span.name) as progress:
        progress.number = span.first - 1
        for number, line in enumerate(split_lines(file.chunks), span.first):
            progress.number = number
            yield number, line


@dataclass(frozen=True)
class TextFile:
    """A file of text that is being read: one of its own, or a member of an archive."""

    name: str
    """The name that is displayed: `a.txt`, or `books.tar.gz/one/a.txt`."""

    chunks: Iterator[bytes]
    """Its bytes, in UTF-8 and decompressed. They are gone once the next file is asked for."""

    archive: str = ""
    """The innermost archive that it is a member of; empty if it is none."""

    link: str | None = None
    """The member of the archive that it is a link to."""


def open_files(source: str, span: Span, *, is_text: bool = True, with_links: bool = False) -> Iterator[TextFile]:
    """Yield the file of a span, or the members of the tar archive that it is, compressed or not, and of those in it.

    Nothing is unpacked to disk: a member's name is a name and no path. With `is_text` what holds another format is
    refused; with `with_links` links within an archive are yielded, too. Raises UserError if the file cannot be read or
    is damaged.
    """
    name = display_name(span.name)
    with explain_damage(source, span.name) as progress, open_file(span.name) as file:
        progress.number = span.first - 1
        if not span.is_whole:
            yield TextFile(name, _read_range(file, span.start, span.stop))
            return
        head = file.read(HEAD_BYTES)  # a server may not let it be read again
        if is_text and not is_compressed(head):
            _check_format(source, name, head)
        found = _open_text(source, TextFile(name, read_chunks(Rewound(head, file), span.name)), is_text=is_text)
        yield from (one for one in found if with_links or one.link is None)


def _open_text(source: str, file: TextFile, *, is_text: bool, depth: int = 0) -> Iterator[TextFile]:
    """Yield a file, or the members of the archive that it is."""
    first = b""
    while len(first) < HEAD_BYTES and (more := next(file.chunks, b"")):
        first += more
    chunks = chain((first,), file.chunks)
    if not is_tar(first):
        if is_text:
            _check_format(source, file.name, first[:HEAD_BYTES])
        yield replace(file, chunks=chunks)
        return
    if depth > _MAX_ARCHIVES:
        raise UserError(f"source '{source}': {file.name} is an archive in {depth} others; unpack it")
    names = Counter[str]()
    for member, own, link in read_members(chunks):
        names[member] += 1
        if names[member] > 1:  # a file that was added again; ids and counts tell it from the first
            member = f"{member}#{names[member]}"
        target = None if link is None else f"{file.name}/{link}"
        one = TextFile(f"{file.name}/{member}", own, file.name, target)
        yield from (one,) if link is not None else _open_text(source, one, is_text=is_text, depth=depth + 1)


def read_bytes(source: str, span: Span) -> Iterator[tuple[str, bytes] | Unreadable]:
    """Yield the name and the text of the file, or of each member of the archive; Unreadable for one that is too large.

    Raises UserError as `read_lines`.
    """
    for file in open_files(source, span):
        pieces, size = list[bytes](), 0
        with explain_damage(source, span.name):
            for chunk in file.chunks:
                size += len(chunk)
                if size <= MAX_DOCUMENT_BYTES:
                    pieces.append(chunk)
        if size <= MAX_DOCUMENT_BYTES:
            yield file.name, b"".join(pieces)
        else:
            detail = f"it has more than {MAX_DOCUMENT_BYTES >> 20} MiB, and each file is one document"
            yield Unreadable(file.name, "too_large", detail)


@dataclass
class _Progress:
    """How far a file was read."""

    number: int | None = None


@contextmanager
def explain_damage(source: str, part: str, *, unit: str = "line") -> Iterator[_Progress]:
    """Raise what a file system refuses, and what a damaged file raises, as the user's error."""
    progress = _Progress()
    try:
        yield progress
    except DAMAGE as error:
        after = "" if progress.number is None else f" after {unit} {progress.number}"
        raise damaged(source, part, after=after) from error
    except OSError as error:
        raise cannot_open(source, part, error) from error


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
def explain_refusal(source: str, part: str) -> Iterator[None]:
    """Raise what a file system refuses as the user's error."""
    try:
        yield
    except OSError as error:
        raise cannot_open(source, part, error) from error


def _read_range(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    file.seek(start)
    left = sys.maxsize if stop is None else stop - start
    while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk.removeprefix(BOM) if start == 0 and file.tell() == len(chunk) else chunk


def _check_format(source: str, name: str, head: bytes) -> None:
    if (meaning := describe_other_format(head)) is not None:
        raise UserError(f"source '{source}': {name} is {meaning}")
