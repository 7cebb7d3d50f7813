"""The source `latex`: papers as main files with what they include, or as archives of a paper's files, as on arXiv."""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from configs.data.languages import normalize_language
from configs.data.sources import LatexSource
from data_prep.sources.document import Digest, Document, Entry, Span, Unreadable
from data_prep.sources.file_parts import (
    digest_files,
    digest_part,
    display_name,
    explain_damage,
    list_files,
    open_files,
)
from data_prep.sources.formats.latex_text import Find, is_main, to_text
from data_prep.sources.remote_files import local_directory

_SUFFIXES = (".tex", ".ltx", ".latex", ".sty", ".cls", ".bbl")
"""Files of a paper that hold text or macros."""

_MAIN_NAMES = ("main", "ms", "paper", "article", "manuscript")
_LATIN = re.compile(rb"\\usepackage\s*\[\s*(latin1|latin9|ansinew|cp1252)\s*\]\s*\{inputenc\}")
MAX_PAPER_BYTES = 1 << 28
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
    """Yield the document of a main file, or of an archive; its id is the file's name."""
    name, language = display_name(span.name), normalize_language(config.language)
    files, num_bytes = dict[str, bytes](), 0
    for file in open_files(config.name, span, is_text=False):
        member = file.name.removeprefix(f"{name}/")
        if file.name != name and not member.endswith(_SUFFIXES):
            continue
        with explain_damage(config.name, span.name):
            for chunk in file.chunks:
                num_bytes += len(chunk)
                if num_bytes <= MAX_PAPER_BYTES:
                    files[member] = files.get(member, b"") + chunk
    if num_bytes > MAX_PAPER_BYTES:
        yield Unreadable(name, "too_large", f"its files have more than {MAX_PAPER_BYTES >> 20} MiB")
        return
    yield _to_entry(config, span, name, files, language)


def _to_entry(config: LatexSource, span: Span, name: str, files: Mapping[str, bytes], language: str) -> Entry:
    texts = {member: _decode(data) for member, data in files.items()}
    if list(texts) == [name]:
        main, directory = name, local_directory(span.name)
        find: Find = _in_directory(Path(directory)) if directory is not None else (lambda wanted: None)
    else:
        found = _choose_main({member: text for member, text in texts.items() if text is not None})
        if found is None:
            return Unreadable(name, "no_main_file", f"of {len(files)} files none has \\documentclass")
        main, find = found, _in_archive(texts, posixpath.dirname(found))
    text = texts[main]
    if text is None:
        return Unreadable(name, "invalid_utf8")
    return Document(f"{config.name}/{name}", to_text(text, find), language, config.name)


def _decode(data: bytes) -> str | None:
    """Return the text of a file, which is UTF-8 unless it declares another encoding; None if it is neither."""
    try:
        return data.decode("cp1252" if _LATIN.search(data) else "utf-8")
    except UnicodeDecodeError:
        return None


def _choose_main(texts: Mapping[str, str]) -> str | None:
    """Return the main file of a paper: of several the one that is named like one, then the shortest name."""
    mains = [member for member, text in texts.items() if is_main(text)]
    if not mains and len(texts) == 1:
        mains = list(texts)

    def rank(member: str) -> tuple[bool, int, int, str]:
        stem = posixpath.splitext(posixpath.basename(member))[0].lower()
        return stem not in _MAIN_NAMES, member.count("/"), len(member), member

    return min(mains, key=rank) if mains else None


def _in_archive(texts: Mapping[str, str | None], directory: str) -> Find:
    known = {posixpath.normpath(member): text for member, text in texts.items()}
    return lambda wanted: known.get(posixpath.normpath(posixpath.join(directory, wanted)))


def _in_directory(directory: Path) -> Find:
    """Find files by their names below a directory, never outside it, whatever links there are."""
    root = directory.resolve()

    def find(wanted: str) -> str | None:
        try:
            path = (root / wanted).resolve()
            is_there = path.is_relative_to(root) and path.is_file() and path.name.endswith(_SUFFIXES)
            return _decode(path.read_bytes()) if is_there else None
        except (OSError, ValueError):  # a name that no file can have
            return None

    return find
