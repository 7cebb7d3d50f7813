"""What ranks, whose output nobody sees, have to say to whoever started them: lines in a file."""

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.host.console import say

FILE = "notices.txt"
SECONDS_BETWEEN_LOOKS = 0.5


def notify(directory: Path, texts: list[str]) -> None:
    """Say something, a line each."""
    if texts:
        with (directory / FILE).open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)


class Notices:
    """What one rank says. On a full disk it is said later, and at once on the rank's own standard error."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._untold: list[str] = []

    def tell(self, text: str) -> None:
        """Say a sentence."""
        self._untold.append(text)
        if not self.retry():
            print(text, file=sys.stderr, flush=True)

    def retry(self) -> bool:
        """Say what could not be said before; whether it could be now."""
        try:
            notify(self._directory, self._untold)
            self._untold = []
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True


@contextmanager
def pass_on(directory: Path) -> Iterator[None]:
    """Show on standard error what is said while the block runs, each line once and as it comes."""
    path = directory / FILE
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
        ended = done.wait(SECONDS_BETWEEN_LOOKS)  # before the look, so that the last look sees everything
        if (size := _size(path)) > seen:
            with path.open("rb") as file:
                file.seek(seen)
                new = file.read(size - seen)
            shown = new if ended else new[: new.rfind(b"\n") + 1]
            seen += len(shown)
            for line in shown.decode("utf-8", errors="replace").splitlines():
                say(line)
        if ended:
            return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
