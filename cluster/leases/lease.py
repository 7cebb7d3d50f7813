"""Who may write an artifact: one holder of its lease, at a time, on all hosts that share the store.

A lease is a file `<store>/.leases/<artifact>`, locked (flock) for as long as its holder lives. The lock can outlive its
holder's usefulness: a host that hangs, or is cut off, keeps it. So the holder also touches the file every few seconds
(its heartbeat), and one that has been silent for a while is taken over: the file is replaced, and with it the fencing
token that the old holder's commits are checked against (cluster/leases/fence.py).

Where the store is behind a URL, that lock guards the working copy, and a lease in the store itself, which has no locks,
guards the store (cluster/leases/object_lease.py).
"""

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cluster.host.console import print_line
from cluster.host.retry import retry
from cluster.leases import object_lease
from cluster.leases.fence import LEASES, Fence, holder_in, token_of
from cluster.leases.flock import explain_lock_error, lock_file, unlock_file
from cluster.leases.object_lease import ObjectLease, ObjectLeaseHeld, object_name, parse_record
from cluster.storage.objects import ObjectStore
from configs.base import LeaseLost, StartUpError, UserError

HEARTBEAT_SECONDS = 5.0
SILENT_AFTER_SECONDS = 60.0
"""A holder that has not touched its lease for so long hangs, or is cut off from the store."""

_TRIES = 10
_SECONDS_BETWEEN_TRIES = 0.05


class LeaseHeld(StartUpError):
    """Another process holds the lease."""


@dataclass(frozen=True)
class StoreFence(Fence):
    """A lease of the working copy and of the store: lost there, it is lost here too. It stays in its process."""

    object_lease: ObjectLease

    def check_remote(self) -> None:
        """Raise LeaseLost if it is lost, InfrastructureError if the store has long not said whose it is."""
        self.check()
        self.object_lease.check()


@dataclass(frozen=True)
class _HeldLock:
    """A lock that is held."""

    fence: Fence
    file: IO[str]
    holder: dict[str, str | int]
    former_token: str | None
    """Token of who had it before and did not give it up."""


@contextmanager
def lease(store: Path, artifact: str, *, what: str, take_over: bool = False) -> Iterator[Fence]:
    """Hold the right to make `artifact` during the block. Raises LeaseHeld, which names the holder, if there is one.

    With `take_over` a holder that lives is fenced off too. Processes that the holder starts do not inherit the lease.
    Needs a file system whose locks work across the hosts that share it; raises UserError where they do not.
    """
    with _held_lock(store, artifact, what=what, take_over=take_over) as held:
        yield held.fence


@contextmanager
def store_lease(
    remote: ObjectStore | None, working_copy: Path, name: str, *, what: str, take_over: bool = False
) -> Iterator[Fence]:
    """Hold a lease in a working copy and, unless `remote` is None, in the store that it is a copy of.

    A holder found in the store is watched until it is seen to live, which raises LeaseHeld, or to be silent, for a
    minute at most. One that died in this working copy is not waited for. A lease lost in the store is lost here too.
    """
    with _held_lock(working_copy, name, what=what, take_over=take_over) as held:
        if remote is None:
            yield held.fence
            return
        remote_lease = ObjectLease(remote, name, held.holder)
        try:
            remote_lease.take(former_token=held.former_token, take_over=take_over)
        except ObjectLeaseHeld as error:
            raise LeaseHeld(f"{what} is being made by {error}; wait for it, or stop it and run this again") from None
        try:
            with _heartbeat(lambda done: _beat_in_store(remote_lease, held.file, done)):
                yield StoreFence(held.fence.path, held.fence.token, remote_lease)
        finally:
            with suppress(UserError):  # a store that does not answer: others see that the holder is silent
                remote_lease.give_up()


def store_holder(remote: ObjectStore | None, working_copy: Path, name: str) -> str | None:
    """Return who holds a lease, in this working copy or in its store, or None.

    One in the store counts for as long as its last heartbeat is young, which this host's clock tells: good enough to
    show a status, not to decide who may write.
    """
    if (who := holder(working_copy, name)) is not None or remote is None:
        return who
    record = parse_record(remote.read(object_name(name)))
    if record is None or record.token == token_of(working_copy / LEASES / name):  # it died here
        return None
    age = (datetime.now(UTC) - record.time).total_seconds()
    is_young = age < object_lease.SILENT_AFTER_SECONDS + object_lease.SETTLE_SECONDS
    return record.words() if is_young else None


def holder(store: Path, artifact: str) -> str | None:
    """Return who is making the artifact now, or None."""
    path = store / LEASES / artifact
    try:
        with path.open("r", encoding="utf-8") as file:
            lock_file(file, shared=True)
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BlockingIOError:
        return holder_in(path)


@contextmanager
def _held_lock(store: Path, artifact: str, *, what: str, take_over: bool) -> Iterator[_HeldLock]:
    path = store / LEASES / artifact
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        former_token = token_of(path)
        file = _take_lock(path, what=what, take_over=take_over, open_files=open_files)
        token = uuid.uuid4().hex
        holder: dict[str, str | int] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "token": token,
        }
        _write_holder(file, holder)
        try:
            with _heartbeat(lambda done: _touch(file.fileno(), done)):
                yield _HeldLock(Fence(path, token), file, holder, former_token)
        finally:
            file.truncate(0)
            unlock_file(file)


def _take_lock(path: Path, *, what: str, take_over: bool, open_files: ExitStack) -> IO[str]:
    """Return a lease's file, locked. Raises LeaseHeld if another process has it and lives."""
    while True:
        file = open_files.enter_context(path.open("a+", encoding="utf-8"))
        try:
            _lock_soon(file)
        except BlockingIOError:
            if not take_over and _silent_seconds(path) < SILENT_AFTER_SECONDS:
                raise LeaseHeld(
                    f"{what} is being made by {holder_in(path)}; wait for it, or stop it and run this again"
                ) from None
            print_line(f"{what}: taken over from {holder_in(path)}, which can commit nothing to it any more")
            return _replace(path, open_files)
        except OSError as error:
            raise explain_lock_error(path, error) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # it was taken over between being opened and being locked


def _lock_soon(file: IO[str]) -> None:
    """Take the lock; one that is held for a moment only is another process's look at the status."""
    waits = [_SECONDS_BETWEEN_TRIES] * (_TRIES - 1)
    retry(lambda: lock_file(file), waits=waits, is_transient=lambda error: isinstance(error, BlockingIOError))


def _replace(path: Path, open_files: ExitStack) -> IO[str]:
    """Return a new file in the lease's place, locked before it has its name."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    file = open_files.enter_context(fresh.open("a+", encoding="utf-8"))
    lock_file(file)
    os.replace(fresh, path)
    return file


def _silent_seconds(path: Path) -> float:
    """Return the seconds since the holder's last heartbeat, by the file system's clock: hosts may disagree."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _write_holder(file: IO[str], holder: dict[str, str | int]) -> None:
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _heartbeat(beat: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `beat` in a thread until the block ends, which sets the event."""
    done = threading.Event()
    thread = threading.Thread(target=beat, args=(done,), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _touch(descriptor: int, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # a holder whose store does not answer is silent, which is what others are to see
            os.utime(descriptor)


def _beat_in_store(remote_lease: ObjectLease, file: IO[str], done: threading.Event) -> None:
    while not done.wait(object_lease.HEARTBEAT_SECONDS):
        try:
            remote_lease.beat()
        except LeaseLost:
            # The ranks know this file only. Its token is nobody's: nobody is to think that the winner died here.
            _write_holder(file, remote_lease.winner() | {"token": ""})
            return
        except UserError:  # as above; once the store answers again, it says whose the lease is
            continue
