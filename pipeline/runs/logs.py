"""`concord logs`: what the drivers of a run have printed."""

import time
from collections.abc import Iterator

from pipeline.runs.directory import RunDirectory
from pipeline.runs.state import read_status

SECONDS_BETWEEN_CHECKS = 0.5


def read_logs(directory: RunDirectory, *, follow: bool) -> Iterator[str]:
    """Yield the text of all starts, in order; with `follow` also what is printed from now on, until the run ends."""
    for start in directory.starts()[:-1]:
        yield _read_log(directory, start.number, 0).decode(errors="replace")
    seen, number = 0, len(directory.starts())
    while number:
        status = read_status(directory)
        ended = not status.is_live and status.word != "unknown"  # a launcher that is silent for a while is no end
        new = _read_log(directory, number, seen)
        whole = new if ended else new[: new.rfind(b"\n") + 1]  # a line, or a character, may be half there
        seen += len(whole)
        if whole:
            yield whole.decode(errors="replace")
        if (latest := len(directory.starts())) > number:
            seen, number = 0, number + 1 if number < latest else latest
        elif not follow or ended:
            return
        else:
            time.sleep(SECONDS_BETWEEN_CHECKS)


def _read_log(directory: RunDirectory, start: int, offset: int) -> bytes:
    """Return a start's log from `offset` on: from its file if this machine has it, else from the store."""
    file = directory.log_path(start)
    if file.exists():
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read()
    return directory.read_stored_log(start)[offset:]
