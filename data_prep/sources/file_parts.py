"""What the sources share that read files: the files a pattern names, the lines in them, the user's errors.

A file's part is its absolute path. Where the user wrote a relative path, `/./` stands between the directory that the
command was run in and the name as the user's pattern matched it (the convention of rsync's --relative):
`/home/ann/run/./data/x.jsonl`. It opens from any directory, and `display` gives the name back for ids and messages.
"""

import glob
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import zstandard
from pydantic import JsonValue

from configs.base import UserError
from configs.data import JsonLinesSource, ParquetSource, PlainTextSource
from data_prep.sources.document import Digest

FileSource = JsonLinesSource | ParquetSource | PlainTextSource

_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
_READ_BYTES = 2**18
# zstd may make 128 KiB of 4 bytes: 4 KiB at a time keeps a call's result under 128 MiB, and costs 4% of the speed.
_ZST_READ_BYTES = 2**12
_BOM = b"\xef\xbb\xbf"


def expand(config: FileSource) -> tuple[str, ...]:
    """Parts of the files that `paths` names, each file once: by name, relative names before absolute ones."""
    names = {name for pattern in config.paths for name in _matches(config.name, pattern)}
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (os.path.isabs(name), name)):
        found.setdefault(os.path.abspath(name), _part(name))
    return tuple(found.values())


def file_identity(config: FileSource, digest: Digest) -> JsonValue:
    """Name and digest of every file."""
    return {display(part): digest_of(config.name, part, digest) for part in expand(config)}


def display(part: str) -> str:
    """The name as the user's pattern matched it."""
    return part.partition("/./")[2] or part


def digest_of(source: str, part: str, digest: Digest) -> str:
    """Digest of one file."""
    try:
        return digest(Path(part))
    except OSError as error:
        raise cannot_open(source, part, error) from error


def read_lines(source: str, part: str) -> Iterator[tuple[int, bytes]]:
    r"""Lines with their numbers from 1, without `\n` or `\r\n`; memory is bounded by the longest line."""
    number = 0
    try:
        for number, line in enumerate(_split(_chunks(part)), 1):
            yield number, line.removeprefix(_BOM) if number == 1 else line
    except _DAMAGE as error:
        raise damaged(source, part, after=f" after line {number}") from error
    except OSError as error:
        raise cannot_open(source, part, error) from error


def read_bytes(source: str, part: str) -> bytes:
    """The whole file, decompressed."""
    try:
        return b"".join(_chunks(part)).removeprefix(_BOM)
    except _DAMAGE as error:
        raise damaged(source, part) from error
    except OSError as error:
        raise cannot_open(source, part, error) from error


def damaged(source: str, part: str, *, after: str = "", what: str = "is") -> UserError:
    """Error for a file that breaks off or does not decode."""
    remedy = "fetch it again or take it out of `paths`"
    return UserError(f"source '{source}': {display(part)} {what} truncated or damaged{after}; {remedy}")


def cannot_open(source: str, part: str, error: OSError) -> UserError:
    """Error for a file that is gone or closed to this user."""
    cause = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"source '{source}': {display(part)} cannot be read ({cause}); mend that or take it out")


def _matches(source: str, pattern: str) -> list[str]:
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


def _part(name: str) -> str:
    return re.sub(r"/(\./)+", "/", name) if os.path.isabs(name) else f"{os.getcwd()}/./{name}"


def _chunks(part: str) -> Iterator[bytes]:
    """Bytes of a file, decompressed as its suffix says. Raises one of `_DAMAGE` if they break off."""
    suffix = Path(part).suffix.lower()
    with open(part, "rb") as file:
        if suffix in (".gz", ".zst") and not file.peek(1):
            raise EOFError("no compressed file is empty")
        if suffix == ".gz":
            with gzip.open(file) as stream:
                yield from iter(partial(stream.read1, _READ_BYTES), b"")
        elif suffix == ".zst":
            yield from _decompress_zst(iter(partial(file.read, _ZST_READ_BYTES), b""))
        else:
            yield from iter(partial(file.read, _READ_BYTES), b"")


def _decompress_zst(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Frames one after the other; unlike zstandard's own readers it notices a last frame that breaks off."""
    # Some corpora are written with `zstd --long=31`, which the library refuses unless told so.
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame = decompressor.decompressobj()
    for chunk in chunks:
        rest = chunk
        while rest:
            frame = decompressor.decompressobj() if frame.eof else frame
            yield frame.decompress(rest)
            rest = frame.unused_data
    if not frame.eof:
        raise EOFError("the last zstd frame breaks off")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        pieces.append(first)
        for piece in more:
            yield b"".join(pieces).removesuffix(b"\r")
            pieces = [piece]
    if last := b"".join(pieces):
        yield last.removesuffix(b"\r")
