"""The source `latex`: papers as main files with what they include, or as archives of a paper's files, as on arXiv."""

import errno
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import JsonValue

from configs.data.languages import normalize_language
from configs.data.sources import LatexSource
from data_prep.sources.content import DAMAGE, read_chunks
from data_prep.sources.document import Digest, Document, Dropped, Entry, Span, Unreadable
from data_prep.sources.file_parts import TextFile, display_name, explain_damage, open_files
from data_prep.sources.formats.latex_encoding import decode, find_codec
from data_prep.sources.formats.latex_text import (
    Find,
    PaperError,
    begins_document,
    is_main,
    is_picture,
    put_together,
    to_text,
)
from data_prep.sources.listing import digest_files, digest_part, list_files
from data_prep.sources.remote_files import is_url, list_matches, local_directory

_SUFFIXES = (".tex", ".ltx", ".latex", ".sty", ".cls", ".bbl")
"""Files of a paper that hold text or macros."""

_MAIN_NAMES = ("main", "ms", "paper", "article", "manuscript")
_NO_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
"""What is said of a name that no file can have."""

MAX_PAPER_BYTES = 1 << 26
"""Bytes of the files of one paper that are kept in memory; one with more is unreadable."""


def spans(config: LatexSource) -> tuple[Span, ...]:
    """Return the main files and archives, each once."""
    _listed.cache_clear()
    _included.cache_clear()
    return list_files(config)


def identity(config: LatexSource, digest: Digest) -> JsonValue:
    """Return the digest of every file, of those that main files may include, too, by name."""
    named = digest_files(config, digest)
    assert isinstance(named, dict)
    found: dict[str, JsonValue] = dict(named)
    directories = {local_directory(span.name) for span in list_files(config) if span.name.endswith(_SUFFIXES)}
    for directory in sorted(path for path in directories if path is not None):
        for root, inner, names in os.walk(directory):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for part in (f"{root}/{name}" for name in sorted(names) if name.endswith(_SUFFIXES)):
                if not os.path.isfile(part):  # a link that leads nowhere, such as the locks of editors
                    continue
                found.setdefault(display_name(part), digest_part(config.name, part, digest))
    return found


def read(config: LatexSource, span: Span) -> Iterator[Entry]:
    """Yield the documents of a main file, or of the main files of an archive; the id of the first is the file's name.

    A main file that another of the archive includes is no document of its own, nor is a file that another file of the
    source includes. Pictures are dropped. Of an archive of archives, as arXiv has them in bulk, each is a paper.
    """
    papers, name, num_inner = dict[str, _Paper](), display_name(span.name), 0
    for file in open_files(config.name, span, is_text=False, with_links=True):
        archive = file.archive
        for done in [one for one in papers if one != archive and not archive.startswith(f"{one}/")]:
            num_inner += 1
            yield from _read_paper(config, span, papers.pop(done))
        paper = papers.setdefault(archive, _Paper(archive or name))
        with explain_damage(config.name, span.name):
            if archive and not file.link and file.name.endswith(".gz"):
                alone = _Paper(file.name)
                alone.add(file, is_all=True)
                if any(map(_is_main, alone.files.values())):  # else it is a picture or the like
                    num_inner += 1
                    yield from _read_paper(config, span, alone)
            else:
                paper.add(file, is_all=not archive)
    for paper in papers.values():
        if paper.files or not num_inner:  # of an archive of papers the rest is none
            yield from _read_paper(config, span, paper)


class _Paper:
    """The files of a paper: of an archive, or one alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.files = dict[str, bytes]()
        self.links = dict[str, str]()
        self.is_archive = False
        self._num_bytes = 0

    @property
    def is_too_large(self) -> bool:
        """Whether not all its files are kept."""
        return self._num_bytes > MAX_PAPER_BYTES

    def add(self, file: TextFile, *, is_all: bool) -> None:
        """Take a file if it is one of text or macros, or whatever it is with `is_all`."""
        member = file.name.removeprefix(f"{self.name}/")
        self.is_archive = self.is_archive or member != file.name
        if file.link is not None:
            self.links[member] = file.link.removeprefix(f"{self.name}/")
        elif is_all or member.endswith(_SUFFIXES):
            chunks = list[bytes]()
            for chunk in file.chunks:
                self._num_bytes += len(chunk)
                if not self.is_too_large:
                    chunks.append(chunk)
            self.files[member] = b"".join(chunks)


def _read_paper(config: LatexSource, span: Span, paper: _Paper) -> Iterator[Entry]:
    if paper.is_too_large:
        yield Unreadable(paper.name, "too_large", f"its files have more than {MAX_PAPER_BYTES >> 20} MiB")
    elif paper.is_archive:
        yield from _read_archive(config, paper)
    elif paper.name == display_name(span.name):
        with explain_damage(config.name, span.name):
            entry = _read_file(config, span.name, paper.files[paper.name])
        yield entry
    else:
        yield _to_entry(config, paper.name, paper.files[paper.name], lambda wanted: None)


def _read_file(config: LatexSource, path: str, data: bytes) -> Document | Unreadable | Dropped:
    """Return what becomes of a file that is no archive; OSError if one that it includes cannot be read."""
    directory, name = local_directory(path), display_name(path)
    if directory is None:
        return _to_entry(config, name, data, lambda wanted: None)
    base = path.partition("/./")[0] if "/./" in path else "/"
    if os.path.realpath(path) in _included(config, base, directory):
        return Dropped("included", normalize_language(config.language))
    return _to_entry(config, name, data, _in_directory(Path(directory), find_codec(data), set()))


def _read_archive(config: LatexSource, paper: _Paper) -> Iterator[Entry]:
    mains = sorted((member for member, data in paper.files.items() if _is_main(data)), key=lambda m: _rank(paper, m))
    if not mains and len(paper.files) == 1:
        mains = list(paper.files)
    if not mains:
        number = len(paper.files)
        yield Unreadable(paper.name, "no_main_file", f"of {number} files with text none has \\documentclass")
    used = {main: _list_included(paper, main) for main in mains}
    name = paper.name
    for number, main in enumerate(mains):
        includers = (other for other in mains if other != main and main in used[other])
        if all(other in used[main] and number < mains.index(other) for other in includers):  # the first of a circle
            find = _in_archive(paper, posixpath.dirname(main), find_codec(paper.files[main]), set())
            yield _to_entry(config, name or f"{paper.name}/{main}", paper.files[main], find)
            name = ""


def _list_included(paper: _Paper, main: str) -> set[str]:
    """Return the members of an archive that a main file includes."""
    used, data = set[str](), paper.files[main]
    with suppress(PaperError):  # it is told where the main file is read itself
        find = _in_archive(paper, posixpath.dirname(main), find_codec(data), used)
        put_together(decode(data, find_codec(data)), find, MAX_PAPER_BYTES)
    return used


def _to_entry(config: LatexSource, name: str, data: bytes, find: Find) -> Document | Unreadable | Dropped:
    language = normalize_language(config.language)
    try:
        text = decode(data, find_codec(data))
        if "\0" in text:
            return Unreadable(name, "not_text", "it has zero bytes")
        if is_picture(text):
            return Dropped("picture", language)
        whole = to_text(text, find, max_characters=MAX_PAPER_BYTES, name=posixpath.basename(name))
    except PaperError as error:
        return Unreadable(name, error.reason, error.detail)
    return Document(f"{config.name}/{name}", whole, language, config.name)


def _is_main(data: bytes) -> bool:
    return is_main(data.decode("latin-1"))  # what tells is ASCII


def _rank(paper: _Paper, member: str) -> tuple[bool, bool, int, int, str]:
    """Order the main files of a paper: those that begin a document, then one that is named like one, then the shortest
    name."""
    stem = posixpath.splitext(posixpath.basename(member))[0].lower()
    begins = begins_document(paper.files[member].decode("latin-1"))
    return not begins, stem not in _MAIN_NAMES, member.count("/"), len(member), member


def _in_archive(paper: _Paper, directory: str, codec: str | None, used: set[str]) -> Find:
    """Find files by their names in the directory of a main file; those that are found go into `used`."""
    known = {posixpath.normpath(member): member for member in paper.files}
    known |= {posixpath.normpath(link): known[to] for link, to in paper.links.items() if to in known}

    def find(wanted: str) -> str | None:
        member = known.get(posixpath.normpath(posixpath.join(directory, wanted)))
        if member is None:
            return None
        used.add(member)
        return decode(paper.files[member], codec, member)

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
                return decode(b"".join(read_chunks(file, path.name)), codec, wanted)
        except DAMAGE as error:
            raise PaperError("damaged", wanted) from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_NAME:
                raise
            return None

    return find


@lru_cache(maxsize=2)
def _listed(config: LatexSource, base: str) -> Mapping[str, list[str]]:
    """Return the files of a source on this machine by their directory; `base` is where its patterns begin."""
    found = defaultdict[str, list[str]](list)
    for pattern in (one for one in config.paths if not is_url(one)):
        for name in list_matches(config.name, os.path.join(base, pattern)):
            if name.endswith(_SUFFIXES):
                found[os.path.realpath(os.path.dirname(name))].append(name)
    return {directory: sorted(set(names)) for directory, names in found.items()}


@lru_cache(maxsize=1 << 12)
def _included(config: LatexSource, base: str, directory: str) -> frozenset[str]:
    """Return what the files of a source in a directory, and in those above it, include, as paths without links.

    Of two that include each other the first is not among them.
    """
    path = os.path.realpath(directory)
    used = dict[str, set[str]]()
    for name in _listed(config, base).get(path, ()):
        data, own = Path(name).read_bytes(), os.path.realpath(name)
        used[own] = set()
        with suppress(PaperError):  # it is told where the file is read itself
            find = _in_directory(Path(path), find_codec(data), used[own])
            put_together(decode(data, find_codec(data)), find, MAX_PAPER_BYTES)
    found = {one for own, those in used.items() for one in those if own not in used.get(one, ()) or own < one}
    above = os.path.dirname(path)
    return frozenset(found) if above == path else frozenset(found) | _included(config, base, above)
