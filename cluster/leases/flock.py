"""The lock of a lease: a file that is locked for as long as its holder lives, and replaced where that hangs."""

import fcntl
import os
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from cluster.host.console import say
from cluster.leases.fence import holder_in
from configs.base import StartUpError, UserError

DEAF_AFTER_SECONDS = 60.0
"""A holder that has not touched its lease for so long hangs, or is cut off from the store."""

_TRIES = 10


class LeaseHeld(StartUpError):
    """Another process is at it."""


def take_lock(path: Path, *, step: str, take_over: bool, open_files: ExitStack) -> IO[str]:
    """A lease's file, locked. Raises LeaseHeld if another process has it."""
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
                f"the file system cannot lock {path} ({error.strerror}); mount it with locks (flock), or give another "
                "directory: store, or for a URL storage.work_dir in the cluster file (--work-dir)"
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
