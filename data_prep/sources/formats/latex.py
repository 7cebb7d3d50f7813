"""The source `latex`: papers as main files with what they include, or as archives of a paper's files, as on arXiv."""

import errno
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import JsonValue

from configs.data.languages import normalize_language
from configs.data.sources import LatexSource
from data_prep.sources.content import DAMAGE, read_chunks
from data_prep.sources.document import Digest, Document, Dropped, Entry, Span, Unreadable
from data_prep.sources.file_parts import (
    digest_files,
    digest_part,
    display_name,
    explain_damage,
    list_files,
    open_files,
)
from data_prep.sources.formats.latex_text import Find, PaperError, is_main, is_picture, put_together, to_text
from data_prep.sources.remote_files import local_directory

_SUFFIXES = (".tex", ".ltx", ".latex", ".sty", ".cls", ".bbl")
"""Files of a paper that hold text or macros."""

_MAIN_NAMES = ("main", "ms", "paper", "article", "manuscript")
_ENCODING = re.compile(
    rb"\\usepackage\s*+\[([^\]]{1,200})\]\s*+\{inputen[cx]\}|\\inputencoding\s*+\{([^{}]{1,50})\}"
    rb"|\\begin\s*+\{CJK\*?\}\s*+(?:\[[^\]]{0,50}\])?\s*+\{([^{}]{1,50})\}"
)
_CODECS = {
    "ascii": "ascii",
    "latin1": "cp1252",  # a superset
    "ansinew": "cp1252",
    "latin2": "iso8859-2",
    "latin3": "iso8859-3",
    "latin4": "iso8859-4",
    "latin5": "iso8859-9",
    "latin9": "iso8859-15",
    "latin10": "iso8859-16",
    "iso88595": "iso8859-5",
    "iso88597": "iso8859-7",
    "applemac": "mac-roman",
    "macce": "mac-latin2",
    "maccyr": "mac-cyrillic",
    "cp866av": "cp866",
    "cp866nav": "cp866",
    "cp437de": "cp437",
    "GB": "gbk",
    "GBK": "gbk",
    "Bg5": "big5hkscs",
    "KS": "cp949",
    "JIS": "euc-jp",
    "SJIS": "cp932",
    **{name: name for name in ("cp437", "cp850", "cp852", "cp855", "cp865", "cp866", "koi8-r", "koi8-u")},
    **{name: name for name in ("cp1250", "cp1251", "cp1252", "cp1253", "cp1257")},
}
"""Encodings by the options of inputenc (latex2e's inputenc.dtx, cyinpenc.dtx) and of the environment CJK."""

_NO_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
"""What is said of a name that no file can have."""

MAX_PAPER_BYTES = 1 << 26
"""Bytes of the files of one paper that are kept in memory; one with more is unreadable."""


def spans(config: LatexSource) -> tuple[Span, ...]:
    """Return the main files and archives, each once."""
    return list_files(config)


def identity(config: LatexSource, digest: Digest) -> JsonValue:
    """Return the digest of every file, of those that main files may include, too, by name."""
    named = digest_files(config, digest)
    assert isinstance(named, dict)
    found: dict[str, JsonValue] = dict(named)
    directories = {local_directory(span.name) for span in list_files(config) if span.name.endswith(_SUFFIXES)}
    for directory in sorted(path for path in directories if path is not None):
        for root, _, names in sorted(os.walk(directory)):
            for name in sorted(name for name in names if name.endswith(_SUFFIXES)):
                part = f"{root}/{name}"
                found.setdefault(display_name(part), digest_part(config.name, part, digest))
    return found


def read(config: LatexSource, span: Span) -> Iterator[Entry]:
    """Yield the documents of a main file, or of the main files of an archive; the id of the first is the file's name.

    A main file that another of the archive includes is no document of its own, nor is a file that another file of the
    source includes. Pictures are dropped.
    """
    name = display_name(span.name)
    files, is_archive = _read_files(config, span, name)
    if files is None:
        yield Unreadable(name, "too_large", f"its files have more than {MAX_PAPER_BYTES >> 20} MiB")
    elif is_archive:
        yield from _read_archive(config, name, files)
    else:
        with explain_damage(config.name, span.name):
            entry = _read_file(config, span.name, files[name])
        yield entry


def _read_files(config: LatexSource, span: Span, name: str) -> tuple[dict[str, bytes] | None, bool]:
    """Return the files of a paper by name, None if they are too large, and whether they are members of an archive."""
    files, num_bytes, is_archive = dict[str, bytes](), 0, False
    for file in open_files(config.name, span, is_text=False):
        is_archive = is_archive or file.name != name
        member = file.name.removeprefix(f"{name}/")
        if is_archive and not member.endswith(_SUFFIXES):
            continue
        chunks = list[bytes]()
        with explain_damage(config.name, span.name):
            for chunk in file.chunks:
                num_bytes += len(chunk)
                if num_bytes <= MAX_PAPER_BYTES:
                    chunks.append(chunk)
        files[member] = b"".join(chunks)
    return (files if num_bytes <= MAX_PAPER_BYTES else None), is_archive


def _read_file(config: LatexSource, path: str, data: bytes) -> Document | Unreadable | Dropped:
    """Return what becomes of a file that is no archive; OSError if one that it includes cannot be read."""
    directory, name = local_directory(path), display_name(path)
    if directory is None:
        return _to_entry(config, name, data, lambda wanted: None)
    if not _is_main(data) and os.path.realpath(path) in _included(config, directory):
        return Dropped("included", normalize_language(config.language))
    return _to_entry(config, name, data, _in_directory(Path(directory), _codec(data), set()))


def _read_archive(config: LatexSource, name: str, files: Mapping[str, bytes]) -> Iterator[Entry]:
    mains = sorted((member for member, data in files.items() if _is_main(data)), key=_rank)
    if not mains and len(files) == 1:
        mains = list(files)
    if not mains:
        yield Unreadable(name, "no_main_file", f"of {len(files)} files with text none has \\documentclass")
    used = set[str]()
    for member in mains:
        if member not in used:
            find = _in_archive(files, posixpath.dirname(member), _codec(files[member]), used)
            yield _to_entry(config, name if member == mains[0] else f"{name}/{member}", files[member], find)


def _to_entry(config: LatexSource, name: str, data: bytes, find: Find) -> Document | Unreadable | Dropped:
    language = normalize_language(config.language)
    try:
        text = _decode(data, _codec(data))
        if is_picture(text):
            return Dropped("picture", language)
        whole = to_text(text, find, max_characters=MAX_PAPER_BYTES)
    except PaperError as error:
        return Unreadable(name, error.reason, error.detail)
    return Document(f"{config.name}/{name}", whole, language, config.name)


def _codec(data: bytes) -> str | None:
    """Return the encoding that a main file declares, the last if there are several; None if it is UTF-8 or unknown."""
    options = b",".join(option for found in _ENCODING.findall(data) for option in found).decode("latin-1")
    names = [name.strip() for name in options.split(",")]
    return next((_CODECS[name] for name in reversed(names) if name in _CODECS), None)


def _decode(data: bytes, codec: str | None, name: str = "") -> str:
    """Return the text of a file, which is UTF-8, or else in the encoding of the paper. Raises PaperError."""
    for one in ("utf-8", codec):
        try:
            if one:
                return data.decode(one)
        except UnicodeDecodeError:
            continue
    raise PaperError("invalid_utf8", f"{name or 'its main file'}, and it declares {codec or 'no other encoding'}")


def _is_main(data: bytes) -> bool:
    return is_main(data.decode("latin-1"))  # what tells is ASCII


def _rank(member: str) -> tuple[bool, int, int, str]:
    """Order the main files of a paper: one that is named like one, then the shortest name."""
    stem = posixpath.splitext(posixpath.basename(member))[0].lower()
    return stem not in _MAIN_NAMES, member.count("/"), len(member), member


def _in_archive(files: Mapping[str, bytes], directory: str, codec: str | None, used: set[str]) -> Find:
    """Find files by their names in the directory of a main file; those that are found go into `used`."""
    known = {posixpath.normpath(member): member for member in files}

    def find(wanted: str) -> str | None:
        member = known.get(posixpath.normpath(posixpath.join(directory, wanted)))
        if member is None:
            return None
        used.add(member)
        return _decode(files[member], codec, member)

    return find


def _in_directory(directory: Path, codec: str | None, used: set[str]) -> Find:
    """Find files by their names below a directory, never outside it, whatever links there are.

    Those that are found go into `used`, as paths without links.
    """
    root = directory.resolve()

    def find(wanted: str) -> str | None:
        try:
            path = Path(os.path.realpath(root / wanted))
            is_there = path.is_relative_to(root) and path.is_file() and path.name.endswith(_SUFFIXES)
            if not is_there:
                return None
            used.add(str(path))
            if path.stat().st_size > MAX_PAPER_BYTES:
                raise PaperError("too_large", f"{wanted} has more than {MAX_PAPER_BYTES >> 20} MiB")
            with path.open("rb") as file:
                return _decode(b"".join(read_chunks(file, path.name)), codec, wanted)
        except DAMAGE as error:
            raise PaperError("damaged", wanted) from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_NAME:
                raise
            return None

    return find


@lru_cache(maxsize=2)
def _listed(config: LatexSource) -> Mapping[str, list[str]]:
    """Return the files of a source on this machine by their directory."""
    found = defaultdict[str, list[str]](list)
    for span in list_files(config):
        if local_directory(span.name) is not None and span.name.endswith(_SUFFIXES):
            found[os.path.realpath(os.path.dirname(span.name))].append(span.name)
    return found


@lru_cache(maxsize=1 << 12)
def _included(config: LatexSource, directory: str) -> frozenset[str]:
    """Return what the main files of a source in a directory, and in those above it, include, as paths without links."""
    path = os.path.realpath(directory)
    used = set[str]()
    for main in _listed(config).get(path, ()):
        data = Path(main).read_bytes()
        if _is_main(data):
            try:
                text = _decode(data, _codec(data))
                put_together(text, _in_directory(Path(path), _codec(data), used), MAX_PAPER_BYTES)
            except PaperError:
                pass  # it is told where the main file is read itself
    above = os.path.dirname(path)
    return frozenset(used) if above == path else frozenset(used) | _included(config, above)
