"""One writer for one artifact: a lock that the system drops when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from configs.base import UserError

_TRIES = 10


@contextmanager
def lease(store: Path, artifact: str, *, step: str) -> Iterator[None]:
    """Hold the right to make `artifact` during the block. Raises UserError that names the holder if there is one.

    A file lock (flock) under `<store>/.leases`: processes on one host, and hosts that share a file system with
    working locks. Processes that the holder starts do not inherit it.
    """
    path = store / ".leases" / artifact
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            raise UserError(
                f"step {step!r} is being made by {_read(path)}; wait for it, or stop it and run this again"
            ) from None
        except OSError as error:
            raise UserError(
                f"the file system of the store cannot lock {path} ({error.strerror}); mount it with locks (flock), or "
                "give another store with --set store=DIR"
            ) from error
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile


def _lock(descriptor: int) -> None:
    """Take the lock; one that is held for a moment only is somebody's look at `status`."""
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(store: Path, artifact: str) -> str | None:
    """Who is making the artifact now, or None."""
    path = store / ".leases" / artifact
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BlockingIOError:
        return _read(path)


def _read(path: Path) -> str:
    try:
        seen = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:  # it has just begun
        return "another process"
    return f"process {seen['pid']} on {seen['host']} since {seen['since']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
