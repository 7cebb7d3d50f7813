"""The source `docstrings`: docstrings of installed Python packages, parsed from their files without importing them."""

import ast
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from itertools import chain
from pathlib import Path

from pydantic import JsonValue

from configs.data.languages import normalize_language
from configs.data.sources import DocstringsSource
from data_prep.sources.document import Digest, Document, Span, Unreadable
from data_prep.sources.file_parts import cannot_open
from data_prep.sources.listing import digest_part
from data_prep.sources.package_text import find_package

_SKIPPED_DIRECTORIES = ("test", "tests")


def spans(config: DocstringsSource) -> tuple[Span, ...]:
    """Return the packages in the order of the config, each once. Raises UserError if one is not installed."""
    packages = tuple(dict.fromkeys(config.packages))
    for package in packages:
        find_package(config.name, package)
    return tuple(Span(package) for package in packages)


def identity(config: DocstringsSource, digest: Digest) -> JsonValue:
    """Return the installed version of each package, or the digests of its files if no distribution owns it."""
    return {package: _identify_package(config, package, digest) for package in dict.fromkeys(config.packages)}


def read(config: DocstringsSource, span: Span) -> Iterator[Document | Unreadable]:
    """Yield the docstrings of one package, by file name and place in the file.

    A document is named after the object that has the docstring; a second one of the same name ends in `#2`.
    """
    package = span.name
    root = find_package(config.name, package)
    occurrences = Counter[str]()
    for path in _list_python_files(root):
        tree = _parse(config, root / path)
        if isinstance(tree, str):
            yield Unreadable(f"{package}/{path}", tree)
            continue
        for name, text in _walk_docstrings(tree, _module_name(package, path)):
            occurrences[name] += 1
            count = occurrences[name]
            yield _to_document(config, name if count == 1 else f"{name}#{count}", text)


def _identify_package(config: DocstringsSource, package: str, digest: Digest) -> JsonValue:
    root = find_package(config.name, package)
    # Reading RECORD as text takes 40 ms; packages_distributions() takes 200.
    for distribution in chain(distributions(name=package), distributions()):
        if _owns_files(distribution, package, root):
            return distribution.version
    return {path: digest_part(config.name, str(root / path), digest) for path in _list_python_files(root)}


def _owns_files(distribution: Distribution, package: str, root: Path) -> bool:
    """Return whether the distribution installed the files at `root`.

    An editable install did not: its files change while its version stays.
    """
    if Path(str(distribution.locate_file(package))) != root:
        return False
    return f"\n{package}/__init__.py," in f"\n{distribution.read_text('RECORD') or ''}"


def _list_python_files(root: Path) -> list[str]:
    found = []
    for directory, directories, names in os.walk(root):
        directories[:] = [name for name in directories if name not in _SKIPPED_DIRECTORIES]
        found += [Path(directory, name).relative_to(root).as_posix() for name in names if name.endswith(".py")]
    return sorted(found)


def _module_name(package: str, path: str) -> str:
    pieces = [package, *path.removesuffix(".py").split("/")]
    return ".".join(pieces[:-1] if pieces[-1] == "__init__" else pieces)


def _parse(config: DocstringsSource, path: Path) -> ast.Module | str:
    """Return the file's syntax tree, or the reason why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in somebody else's strings
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null byte; brackets nested too deep
        return "syntax_error"
    except OSError as error:
        raise cannot_open(config.name, str(path), error) from error


def _walk_docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Yield the qualified name and docstring of the module, its classes and functions, in the file's order."""
    stack: list[tuple[ast.AST, str]] = [(tree, module)]
    while stack:  # not recursion: every `elif` is one level deeper
        node, name = stack.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{name}.{node.name}"
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield name, text
        children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        stack += [(child, name) for child in reversed(children)]


def _to_document(config: DocstringsSource, name: str, text: str) -> Document | Unreadable:
    try:
        text.encode()
    except UnicodeEncodeError:
        return Unreadable(name, "invalid_utf8")
    return Document(f"{config.name}/{name}", text, normalize_language(config.language), config.name)
