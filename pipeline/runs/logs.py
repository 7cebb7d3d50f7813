"""`concord logs`: what the drivers of a run have printed, and what the ranks of a training have."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.rank_output import RANKS, output_file
from cluster.storage.objects import ObjectStore
from configs.base import UserError
from pipeline.runs.directory import RunDirectory
from pipeline.runs.state import LAUNCHER_SECONDS, read_status

SECONDS_BETWEEN_CHECKS = 0.5

SECONDS_FOR_A_START = 30.0
"""How long after the first rank the others may begin to print."""


def read_logs(directory: RunDirectory, *, follow: bool) -> Iterator[str]:
    """Yield the text of all starts, in order; with `follow` also what is printed from now on, until the run ends."""
    for start in directory.starts()[:-1]:
        yield _read_log(directory, start.number, 0).decode(errors="replace")
    seen, number = 0, len(directory.starts())
    while number:
        status = read_status(directory, launcher_seconds=LAUNCHER_SECONDS)
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


def read_rank_output(
    path: Path, rank: int, *, follow: bool, is_made: Callable[[], bool], remote: ObjectStore | None
) -> Iterator[str]:
    """Yield what a rank of the training at `path` has printed; with `follow` also what comes, while it is being made.

    `remote` is the store, if that is a URL: it has the output of a finished training. Raises UserError if there is no
    output of that rank.
    """
    file, seen = output_file(path / RANKS, rank), 0
    deadline = time.monotonic() + SECONDS_FOR_A_START
    while follow and not file.exists() and is_made() and not (list_rank_output(path) and time.monotonic() > deadline):
        time.sleep(SECONDS_BETWEEN_CHECKS)
    if not file.exists():
        stored = None if remote is None else remote.read(f"{path.name}/{RANKS}/{file.name}")
        if stored is None:
            raise UserError(_no_output(path, rank))
        yield stored.decode(errors="replace")
        return
    while True:
        ended = not follow or not is_made()  # before the last look, which sees everything
        with file.open("rb") as opened:
            opened.seek(seen)
            new = opened.read()
        whole = new if ended else new[: new.rfind(b"\n") + 1]
        seen += len(whole)
        yield whole.decode(errors="replace")
        if ended:
            return
        time.sleep(SECONDS_BETWEEN_CHECKS)


def list_rank_output(path: Path) -> list[Path]:
    """Return the files of what the ranks of the training at `path` printed, in the order of the ranks."""
    return sorted((path / RANKS).glob("rank-*.log"))


def _no_output(path: Path, rank: int) -> str:
    numbers = [int(re.sub(r"\D", "", file.stem)) for file in list_rank_output(path)]
    if numbers:
        return f"{path.name} has no output of rank {rank}; it has those of ranks {numbers[0]} to {numbers[-1]}"
    return (
        f"{path.name} has no output of ranks on this machine: none has started yet, or it is made without Ray "
        "(executor: inline), where a rank prints to the terminal or to the run's own log"
    )


def _read_log(directory: RunDirectory, start: int, offset: int) -> bytes:
    """Return a start's log from `offset` on: from its file if this machine has it, else from the store."""
    file = directory.log_path(start)
    if file.exists():
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read()
    return directory.read_stored_log(start)[offset:]
