"""What ranks, whose output nobody sees, have to say to whoever started them: lines in a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.progress import say

FILE = "notices.txt"


def notify(directory: Path, texts: list[str]) -> None:
    """Say something, a line each."""
    if texts:
        with (directory / FILE).open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)


@contextmanager
def pass_on(directory: Path) -> Iterator[None]:
    """Show on standard error, when the block ends, what was said during it."""
    before = len(_lines(directory))
    try:
        yield
    finally:
        for line in _lines(directory)[before:]:
            say(line)


def _lines(directory: Path) -> list[str]:
    path = directory / FILE
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
