"""Reads parallel sentences: a file a language, with the same sentences in the same order. Imports nothing heavy."""

from collections.abc import Collection, Iterator
from pathlib import Path

from configs.base import UserError
from configs.data.languages import normalize_language

Sentences = dict[str, tuple[str, ...]]
"""Language -> sentences."""


def parallel_files(directory: Path) -> dict[str, Path]:
    """Return the file of each language. Raises UserError if there are none, or two of one language."""
    if not directory.is_dir():
        raise UserError(f"parallel: {directory} is no directory; give one with a file a language, as swh_Latn.txt")
    found: dict[str, Path] = {}
    for path, label in _labelled(directory):
        if label in found:
            raise UserError(f"parallel: {path} and {found[label].name} are both of {label}; leave one")
        found[label] = path
    if not found:
        raise UserError(f"parallel: {directory} has no file that a language is the name of, as swh_Latn.txt; add them")
    return found


def read_sentences(directory: Path, languages: Collection[str]) -> Sentences:
    """Return the sentences in those of the languages that there are files of.

    Raises UserError if files have unlike numbers of lines, or an empty one.
    """
    found: Sentences = {}
    for label, path in parallel_files(directory).items():
        if label in languages:
            found[label] = _read(path)
    counts = {label: len(own) for label, own in found.items()}
    if len(set(counts.values())) > 1:
        least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise UserError(
            f"parallel: {directory} has {counts[least]:,} sentences in {least} and {counts[most]:,} in {most}; the "
            "lines of each must say the same as those of the others"
        )
    return found


def _labelled(directory: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            try:
                yield path, normalize_language(path.name.partition(".")[0])
            except ValueError:  # a README
                continue


def _read(path: Path) -> tuple[str, ...]:
    if not path.stat().st_size:
        raise UserError(f"parallel: {path} is empty; give each sentence a line")
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"parallel: {path} is not UTF-8 ({error.reason}); convert it") from None
    if empty := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        raise UserError(f"parallel: {path}:{empty[0]} is empty; give each sentence a line")
    return tuple(line.strip() for line in lines)
