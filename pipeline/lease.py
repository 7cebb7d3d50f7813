"""One writer for one artifact: a lock that the system drops when its holder dies, however it dies; and a fence.

The lock (flock) is a file under `<store>/.leases`, on a file system that the hosts share. It can outlive its holder's
usefulness: a host that hangs, or is cut off, keeps it. So the holder also touches the file every few seconds, and one
that has not done so for a while is passed over: the file is replaced, and with it the token that the old holder's
commits are checked against (cluster/fence.py).
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cluster.fence import LEASES, Fence, holder_in
from cluster.progress import say
from configs.base import StartUpError, UserError

SECONDS_BETWEEN_BEATS = 5.0
DEAF_AFTER_SECONDS = 60.0
"""A holder that has not touched its lease for so long hangs, or is cut off from the store."""

_TRIES = 10


class LeaseHeld(StartUpError):
    """Another process is at it."""


@contextmanager
def lease(store: Path, artifact: str, *, step: str, take_over: bool = False) -> Iterator[Fence]:
    """Hold the right to make `artifact` during the block. Raises LeaseHeld, which names the holder, if there is one.

    With `take_over` a holder that lives is passed over too. Processes that the holder starts do not inherit the lease.
    Needs a file system whose locks work across the hosts that share it.
    """
    path = store / LEASES / artifact
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        file = _take(path, step=step, take_over=take_over, open_files=open_files)
        token = uuid.uuid4().hex
        holder_is = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now(), "token": token}
        file.truncate(0)
        file.write(json.dumps(holder_is))
        file.flush()
        os.fsync(file.fileno())
        done = threading.Event()
        beats = threading.Thread(target=_beat, args=(file.fileno(), done), name="lease", daemon=True)
        beats.start()
        try:
            yield Fence(path, token)
        finally:
            done.set()
            beats.join()
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile


def holder(store: Path, artifact: str) -> str | None:
    """Who is making the artifact now, or None."""
    path = store / LEASES / artifact
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BlockingIOError:
        return holder_in(path)


def _take(path: Path, *, step: str, take_over: bool, open_files: ExitStack) -> IO[str]:
    """The lease's file, locked."""
    while True:
        file = open_files.enter_context(path.open("a+", encoding="utf-8"))
        try:
            _lock(file.fileno())
        except BlockingIOError:
            if not take_over and _silence(path) < DEAF_AFTER_SECONDS:
                raise LeaseHeld(
                    f"step {step!r} is being made by {holder_in(path)}; wait for it, or stop it and run this again"
                ) from None
            say(f"step {step!r}: taken over from {holder_in(path)}, which can commit nothing to it any more")
            return _replace(path, open_files)
        except OSError as error:
            raise UserError(
                f"the file system of the store cannot lock {path} ({error.strerror}); mount it with locks (flock), or "
                "give another store with --set store=DIR"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # it was taken over between being opened and being locked


def _replace(path: Path, open_files: ExitStack) -> IO[str]:
    """A new file in the lease's place, locked before it has its name."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    file = open_files.enter_context(fresh.open("a+", encoding="utf-8"))
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.replace(fresh, path)
    return file


def _lock(descriptor: int) -> None:
    """Take the lock; one that is held for a moment only is somebody's look at `status`."""
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _silence(path: Path) -> float:
    """Seconds since the holder's last beat, by the file system's clock: hosts may disagree."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _beat(descriptor: int, done: threading.Event) -> None:
    while not done.wait(SECONDS_BETWEEN_BEATS):
        with suppress(OSError):  # a store that does not answer makes the holder deaf, which is what others are to see
            os.utime(descriptor)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
