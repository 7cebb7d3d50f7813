"""One writer for one artifact: a lock that the system drops when its holder dies, however it dies; and a fence.

The lock (flock) is a file under `<store>/.leases`, on a file system that the hosts share. It can outlive its holder's
usefulness: a host that hangs, or is cut off, keeps it. So the holder also touches the file every few seconds, and one
that has not done so for a while is passed over: the file is replaced, and with it the token that the old holder's
commits are checked against (cluster/leases/fence.py).

Where the store is a URL, that lock is of the working copy, and there is a lease in the store too, which has no locks
(cluster/leases/object_lease.py).
"""

import fcntl
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

from cluster.leases import object_lease as claim
from cluster.leases.fence import LEASES, Fence, LeaseLost, holder_in, token_of
from cluster.leases.flock import LeaseHeld, take_lock
from cluster.leases.object_lease import Claim, ClaimHeld, claim_name, parse_claim
from cluster.storage.objects import Objects
from configs.base import UserError

SECONDS_BETWEEN_BEATS = 5.0


@dataclass(frozen=True)
class StoreFence(Fence):
    """A lease both here and in a store: lost there, it is lost here too. Unlike a Fence it stays in its process."""

    claim: Claim

    def check_there(self) -> None:
        """Raise LeaseLost if it is lost, InfrastructureError if the store has long not said whose it is."""
        self.check()
        self.claim.check()


@dataclass(frozen=True)
class _Held:
    """A lock that is held."""

    fence: Fence
    file: IO[str]
    holder: dict[str, str | int]
    former: str | None
    """Token of who had it before and did not give it up."""


@contextmanager
def lease(store: Path, artifact: str, *, step: str, take_over: bool = False) -> Iterator[Fence]:
    """Hold the right to make `artifact` during the block. Raises LeaseHeld, which names the holder, if there is one.

    With `take_over` a holder that lives is passed over too. Processes that the holder starts do not inherit the lease.
    Needs a file system whose locks work across the hosts that share it.
    """
    with _held(store, artifact, step=step, take_over=take_over) as mine:
        yield mine.fence


@contextmanager
def store_lease(
    remote: Objects | None, home: Path, name: str, *, step: str, take_over: bool = False
) -> Iterator[Fence]:
    """As `lease`, and where `remote` is what `home` is the working copy of, in that store too.

    Who finds a holder there waits until it is seen to live, and is then refused; or to be silent, for a minute at most.
    One that died in this working copy is not waited for. What holds the lease in the store is lost here too.
    """
    with _held(home, name, step=step, take_over=take_over) as mine:
        if remote is None:
            yield mine.fence
            return
        theirs = Claim(remote, name, mine.holder)
        try:
            theirs.take(former=mine.former, take_over=take_over)
        except ClaimHeld as error:
            raise LeaseHeld(
                f"step {step!r} is being made by {error}; wait for it, or stop it and run this again"
            ) from None
        try:
            with _beating(lambda done: _beat_there(theirs, mine.file, done)):
                yield StoreFence(mine.fence.path, mine.fence.token, theirs)
        finally:
            with suppress(UserError):  # a store that does not answer: others see that it is silent
                theirs.give_up()


@contextmanager
def _held(store: Path, artifact: str, *, step: str, take_over: bool) -> Iterator[_Held]:
    path = store / LEASES / artifact
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        former = token_of(path)
        file = take_lock(path, step=step, take_over=take_over, open_files=open_files)
        token = uuid.uuid4().hex
        holder_is: dict[str, str | int] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": _now(),
            "token": token,
        }
        _write(file, holder_is)
        try:
            with _beating(lambda done: _beat(file.fileno(), done)):
                yield _Held(Fence(path, token), file, holder_is, former)
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile


def store_holder(remote: Objects | None, home: Path, name: str) -> str | None:
    """Who holds a lease, in this working copy or in its store, or None.

    One in the store counts for as long as its last beat is young, which this host's clock tells: a status, no decision.
    """
    if (who := holder(home, name)) is not None or remote is None:
        return who
    there = parse_claim(remote.read(claim_name(name)))
    if there is None or there.token == token_of(home / LEASES / name):  # it died here
        return None
    age = (datetime.now(UTC) - there.time).total_seconds()
    return there.words() if age < claim.DEAF_AFTER_SECONDS + claim.SETTLE_SECONDS else None


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


def _write(file: IO[str], holder_is: dict[str, str | int]) -> None:
    file.truncate(0)
    file.write(json.dumps(holder_is))
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _beating(beat: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have a thread beat until the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=beat, args=(done,), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _beat(descriptor: int, done: threading.Event) -> None:
    while not done.wait(SECONDS_BETWEEN_BEATS):
        with suppress(OSError):  # a store that does not answer makes the holder deaf, which is what others are to see
            os.utime(descriptor)


def _beat_there(theirs: Claim, file: IO[str], done: threading.Event) -> None:
    while not done.wait(claim.SECONDS_BETWEEN_BEATS):
        try:
            theirs.beat()
        except LeaseLost:
            # The ranks know this file only. Its token is nobody's: nobody is to think that the winner died here.
            _write(file, theirs.winner() | {"token": ""})
            return
        except UserError:  # as above; once the store answers again, it says whose the lease is
            continue


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
