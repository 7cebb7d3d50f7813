"""The source `package_text`: a delimited text file in an installed Python package, found without importing it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from pydantic import JsonValue

from configs.base import UserError
from configs.data.sources import PackageTextSource
from data_prep.sources.document import Digest, Document, Span, Unreadable
from data_prep.sources.file_parts import read_lines
from data_prep.sources.listing import digest_part
from data_prep.sources.record_fields import Unlabelled, find_label

_SAMPLE_PACKAGES = ("eld", "scipy", "sympy", "networkx", "sklearn")


def spans(config: PackageTextSource) -> tuple[Span, ...]:
    """Return the file as `package/path`, which each process looks up in its own environment."""
    return (Span(f"{config.package}/{config.path}", os.stat(_locate_file(config)).st_size),)


def identity(config: PackageTextSource, digest: Digest) -> JsonValue:
    """Return the package's name and the digest of the file."""
    return {"package": config.package, "file": digest_part(config.name, _locate_file(config), digest)}


def read(config: PackageTextSource, span: Span) -> Iterator[Document | Unreadable]:
    """Yield the lines of the file as documents; a document's number is its line. Empty lines are skipped."""
    for _, lines in read_lines(config.name, replace(span, name=_locate_file(config))):
        for number, line in lines:
            if line:
                yield _to_document(config, line, f"{span.name}:{number}")


def find_package(source: str, package: str) -> Path:
    """Return the directory of an installed package. Raises UserError if there is no such package."""
    if not package.isidentifier():  # find_spec imports the parents of a dotted name
        raise UserError(f"source '{source}': '{package}' is no top-level import name; write one such as 'scipy'")
    spec = find_spec(package)
    if spec is None:
        name = "'concord-train[sample]'" if package in _SAMPLE_PACKAGES else "the distribution that has it"
        raise UserError(f"source '{source}': the package '{package}' is not installed here; pip install {name}")
    if spec.origin is None or not spec.submodule_search_locations or not Path(spec.origin).is_file():
        raise UserError(f"source '{source}': '{package}' is not a directory with an __init__.py; name one that is")
    return Path(os.path.abspath(spec.origin)).parent


def _locate_file(config: PackageTextSource) -> str:
    """Return the file's path. Raises UserError if it leaves the package or does not exist."""
    root = find_package(config.name, config.package)
    # By name, not by resolving links: some installers link every file to a cache outside the package.
    path = os.path.normpath(root / config.path)
    if not path.startswith(f"{root}{os.sep}"):
        raise UserError(f"source '{config.name}': '{config.path}' leaves the package; write a path inside it")
    if not os.path.isfile(path):
        raise UserError(
            f"source '{config.name}': the package '{config.package}' has no file '{config.path}'; "
            f"look in {root} or install the version that has it"
        )
    return path


def _to_document(config: PackageTextSource, line: bytes, where: str) -> Document | Unreadable:
    last = max(config.text_column, config.language_column or 0)
    try:
        columns = line.decode().split(config.delimiter, last)
    except UnicodeDecodeError:
        return Unreadable(where, "invalid_utf8")
    if len(columns) <= last:
        return Unreadable(where, "missing_field")
    tag = None if config.language_column is None else columns[config.language_column]
    language = find_label(tag, config.language)
    if isinstance(language, Unlabelled):
        return Unreadable(where, "bad_language", language.detail)
    return Document(f"{config.name}/{where}", columns[config.text_column], language, config.name)
