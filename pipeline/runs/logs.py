"""What the drivers of a run have printed."""

import time
from collections.abc import Iterator

from pipeline.runs.directory import RunDirectory
from pipeline.runs.state import state_of

SECONDS_BETWEEN_LOOKS = 0.5


def log_text(directory: RunDirectory, *, follow: bool) -> Iterator[str]:
    """The text of all starts, in order; with `follow` also what comes, until the run has ended."""
    for start in directory.starts()[:-1]:
        yield _bytes(directory, start.number, 0).decode(errors="replace")
    seen, number = 0, len(directory.starts())
    while number:
        state = state_of(directory)
        ended = not state.live and state.word != "unknown"  # a launcher that is silent for a while is no end
        new = _bytes(directory, number, seen)
        whole = new if ended else new[: new.rfind(b"\n") + 1]  # a line, or a character, may be half there
        seen += len(whole)
        if whole:
            yield whole.decode(errors="replace")
        if (latest := len(directory.starts())) > number:
            seen, number = 0, number + 1 if number < latest else latest
        elif not follow or ended:
            return
        else:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _bytes(directory: RunDirectory, start: int, offset: int) -> bytes:
    """Of a start's log, from its file where this machine has it, else from the store."""
    file = directory.log_of(start)
    if file.exists():
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read()
    return directory.log_from_store(start)[offset:]
