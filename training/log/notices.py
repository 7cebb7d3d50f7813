"""notices.txt: sentences for the user from ranks, whose own output nobody sees; the starting process shows them."""

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.host.console import print_line

NOTICES_FILE = "notices.txt"
SECONDS_BETWEEN_POLLS = 0.5


def write_notices(directory: Path, texts: list[str]) -> None:
    """Append each text as a line. Raises OSError."""
    if texts:
        with (directory / NOTICES_FILE).open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)


class Notices:
    """The notices of one rank. On a full disk they wait in memory, and are printed on the rank's standard error."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unwritten: list[str] = []

    def add(self, text: str) -> None:
        """Write a sentence for the user."""
        self._unwritten.append(text)
        if not self.flush():
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> bool:
        """Write what a full disk has kept back; returns whether that succeeded. Raises OSError of any other kind."""
        try:
            write_notices(self._directory, self._unwritten)
            self._unwritten = []
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
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
    while True:
        ended = done.wait(SECONDS_BETWEEN_POLLS)  # before the poll, so that the last one sees everything
        if (size := _size(path)) > seen:
            with path.open("rb") as file:
                file.seek(seen)
                new = file.read(size - seen)
            shown = new if ended else new[: new.rfind(b"\n") + 1]
            seen += len(shown)
            for line in shown.decode("utf-8", errors="replace").splitlines():
                print_line(line)
        if ended:
            return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
