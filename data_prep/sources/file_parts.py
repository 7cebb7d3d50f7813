"""Shared by the sources that read files: expand patterns to files, read lines and bytes, make the user's errors.

A file's part is its absolute path. Where the user wrote a relative path, `/./` stands between the directory that the
command was run in and the name as the user's pattern matched it (the convention of rsync's --relative):
`/home/ann/run/./data/x.jsonl`. It opens from any directory, and `display_name` gives the name back for ids and
messages.
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

from cluster.storage.errors import error_class
from configs.base import UserError
from configs.data import JsonLinesSource, ParquetSource, PlainTextSource
from data_prep.sources.document import Digest

FileSource = JsonLinesSource | ParquetSource | PlainTextSource

_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
_READ_BYTES = 2**18
# zstd may make 128 KiB of 4 bytes: 4 KiB at a time keeps a call's result under 128 MiB, and costs 4% of the speed.
_ZST_READ_BYTES = 2**12
_BOM = b"\xef\xbb\xbf"


def expand_paths(config: FileSource) -> tuple[str, ...]:
    """Return the part of each file that `paths` names, each file once, sorted by name, relative names first.

    Raises UserError if a pattern matches nothing, or anything but a file.
    """
    names = {name for pattern in config.paths for name in _match_pattern(config.name, pattern)}
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (os.path.isabs(name), name)):
        found.setdefault(os.path.abspath(name), _to_part(name))
    return tuple(found.values())


def digest_files(config: FileSource, digest: Digest) -> JsonValue:
    """Return the digest of every file, by its displayed name."""
    return {display_name(part): digest_part(config.name, part, digest) for part in expand_paths(config)}


def display_name(part: str) -> str:
    """Return the file's name as the user's pattern matched it."""
    return part.partition("/./")[2] or part


def digest_part(source: str, part: str, digest: Digest) -> str:
    """Return the digest of one file. Raises what `cannot_open` makes if the file cannot be read."""
    try:
        return digest(Path(part))
    except OSError as error:
        raise cannot_open(source, part, error) from error


def read_lines(source: str, part: str) -> Iterator[tuple[int, bytes]]:
    r"""Yield each line with its number from 1, without `\n` or `\r\n`; memory is bounded by the longest line.

    A byte-order mark is left out. Raises UserError if the file cannot be read or its compression is damaged.
    """
    number = 0
    try:
        for number, line in enumerate(_split_lines(_read_chunks(part)), 1):
            yield number, line.removeprefix(_BOM) if number == 1 else line
    except _DAMAGE as error:
        raise damaged(source, part, after=f" after line {number}") from error
    except OSError as error:
        raise cannot_open(source, part, error) from error


def read_bytes(source: str, part: str) -> bytes:
    """Read the whole file, decompressed, without a byte-order mark. Raises UserError as `read_lines` does."""
    try:
        return b"".join(_read_chunks(part)).removeprefix(_BOM)
    except _DAMAGE as error:
        raise damaged(source, part) from error
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


def _read_chunks(part: str) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed by its suffix. Raises one of `_DAMAGE` if the file breaks off."""
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
    """Decompress frame after frame; unlike zstandard's own readers, notice a last frame that breaks off."""
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


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        pieces.append(first)
        for piece in more:
            yield b"".join(pieces).removesuffix(b"\r")
            pieces = [piece]
    if last := b"".join(pieces):
        yield last.removesuffix(b"\r")
