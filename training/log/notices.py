"""notices.txt: sentences for the user from ranks, whose own output nobody sees; the starting process shows them."""

import errno
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.host.console import print_line
from cluster.storage.errors import ignore_transient, is_transient

NOTICES_FILE = "notices.txt"
SECONDS_BETWEEN_POLLS = 0.5
SECONDS_BETWEEN_EQUAL_LINES = 60.0


def write_notices(directory: Path, texts: list[str]) -> None:
    """Append each text as a line. Raises OSError."""
    if texts:
        with (directory / NOTICES_FILE).open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)


class Notices:
    """The notices of one rank. What a disk does not take, full or away, waits in memory, and is printed on the rank's
    standard error."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unwritten: list[str] = []

    def add(self, text: str) -> None:
        """Write a sentence for the user."""
        self._unwritten.append(text)
        if not self.flush():
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> bool:
        """Write what was kept back; returns whether that succeeded. Raises OSError of a kind that does not pass."""
        try:
            write_notices(self._directory, self._unwritten)
            self._unwritten = []
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not is_transient(error):
                raise
            return False
        return True


@contextmanager
def show_notices(directory: Path) -> Iterator[None]:
    """Show on standard error the notices that are written while the block runs, each line once and as it comes."""
    path = directory / NOTICES_FILE
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, _size(path), done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Path, seen: int, done: threading.Event) -> None:
    """Show whole lines past the first `seen` bytes until `done`, and then the rest, whole or not."""
    shown: dict[str, float] = {}
    while True:
        ended = done.wait(SECONDS_BETWEEN_POLLS)  # before the poll, so that the last one sees everything
        with ignore_transient():  # the next poll shows it
            seen = _show_from(path, seen, shown, whole=ended)
        if ended:
            return


def _show_from(path: Path, seen: int, shown: dict[str, float], *, whole: bool) -> int:
    """Show the lines past the first `seen` bytes, with `whole` also half a one; return how many bytes are seen now.

    What many ranks say at once is shown once: `shown` has when a line was shown last.
    """
    if (size := _size(path)) <= seen:
        return seen
    with path.open("rb") as file:
        file.seek(seen)
        new = file.read(size - seen)
    lines = new if whole else new[: new.rfind(b"\n") + 1]
    for line in lines.decode("utf-8", errors="replace").splitlines():
        if time.monotonic() - shown.get(line, -math.inf) > SECONDS_BETWEEN_EQUAL_LINES:
            print_line(line)
            shown[line] = time.monotonic()
    return seen + len(lines)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
