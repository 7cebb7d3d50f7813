"""Marks of work that was begun: one that is there and that nobody holds is of a process that died of the work.

A mark is a file beside the answer, locked by the process that works: the system drops the lock however it dies.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from cluster.leases.flock import lock_file


@contextmanager
def mark_begun(done: Path) -> Iterator[int]:
    """Mark that work is begun whose answer `done` will hold, and give how many processes have died of it before.

    The marks of the dead go with this one when the work ends, by an answer or an exception. Where the file system has
    no locks no death is counted.
    """
    done.parent.mkdir(parents=True, exist_ok=True)
    dead = [path for path in done.parent.glob(f"{done.stem}.*.begun") if _is_left(path)]
    own = done.with_suffix(f".{uuid4().hex[:12]}.begun")
    fresh = own.with_suffix(".new")
    with fresh.open("ab") as file:
        with suppress(OSError):
            lock_file(file)
        fresh.rename(own)  # once it is locked
        try:
            yield len(dead)
        finally:
            for path in (own, *dead):
                path.unlink(missing_ok=True)


def _is_left(path: Path) -> bool:
    """Return whether the process that wrote a mark is gone."""
    try:
        with path.open("r+b") as file:
            lock_file(file)
            return path.exists()  # not one that ended its work meanwhile
    except OSError:  # held, or no file system with locks
        return False
