"""A lease in an object store, which has no locks: an object that its holder rewrites every few seconds (heartbeat).

A process that sees it unchanged for a while, by its own clock, puts its own in its place. fsspec offers no write that
depends on what is there (S3's If-Match), so a holder trusts what it read last for less time than its successor waits
before it begins.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.host.console import print_line
from cluster.leases.fence import LEASES
from cluster.storage.objects import ObjectStore
from configs.base import InfrastructureError, LeaseLost, UserError

HEARTBEAT_SECONDS = 5.0
SURE_SECONDS = 12.0
"""For how long a holder trusts what it has last read."""

SETTLE_SECONDS = 15.0
"""How long a process that has taken over waits before it begins: more than SURE_SECONDS."""

SILENT_AFTER_SECONDS = 45.0
"""A holder that has not rewritten the object for so long is dead, or cut off from the store."""

_POLL_SECONDS = 1.0


class ObjectLeaseHeld(UserError):
    """Another process holds the lease. The message is who, in words."""


class ObjectLeaseRecord(BaseModel):
    """The content of the object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    host: str
    pid: int
    since: str
    beat: int = 0
    """How often the object was rewritten."""

    time: datetime
    """When the last heartbeat was, by the holder's clock."""

    def words(self) -> str:
        """Return the holder, in words."""
        return f"process {self.pid} on {self.host} since {self.since}"


class ObjectLease:
    """One holder's lease of a name in a store."""

    def __init__(self, store: ObjectStore, lease: str, holder: Mapping[str, str | int]) -> None:
        """`holder` has the token, host, pid and since of an ObjectLeaseRecord."""
        self._store, self._name = store, object_name(lease)
        self._mine = ObjectLeaseRecord.model_validate({**holder, "time": datetime.now(UTC)})
        self._sure_since = float("-inf")
        self._lost = False
        self._winner: ObjectLeaseRecord | None = None

    def take(self, *, former_token: str | None, take_over: bool) -> None:
        """Take the lease; from another holder only if that is silent, or has `former_token`, which is known to be dead.

        With `take_over` from a living one too. Takes SILENT_AFTER_SECONDS and SETTLE_SECONDS at most. Raises
        ObjectLeaseHeld if the holder lives.
        """
        began, last_seen = time.monotonic(), b""
        while not self._create():
            seen = self._store.read(self._name)
            current = parse_record(seen)
            if current is not None and current.token == self._mine.token:
                return None  # the store's first answer was lost
            if current is not None and current.token == former_token:
                return self._write()
            if seen is not None and (take_over or time.monotonic() - began >= SILENT_AFTER_SECONDS):
                print_line(f"{self._where} is taken over from {_words(current)}; that takes {SETTLE_SECONDS:g} s")
                return self._replace(current)
            if last_seen and seen is not None and seen != last_seen:
                raise ObjectLeaseHeld(_words(current))
            if not last_seen:
                seconds = f"{SILENT_AFTER_SECONDS:g} s"
                print_line(f"{self._where}: seeing whether {_words(current)} lives, for {seconds} at most")
            last_seen = seen or b""
            time.sleep(_POLL_SECONDS)
        return None

    def beat(self) -> None:
        """Rewrite the object (heartbeat). Raises LeaseLost once another process has it; or what the store raises."""
        began = time.monotonic()
        current = parse_record(self._store.read(self._name))
        if current is None or current.token != self._mine.token:
            self._lost, self._winner = True, current
            self.check()
        self._sure_since = began
        self._mine = self._mine.model_copy(update={"beat": self._mine.beat + 1, "time": datetime.now(UTC)})
        self._store.write(self._name, self._bytes())

    def check(self) -> None:
        """Raise LeaseLost if another process has it, InfrastructureError if that is not known. Asks no store."""
        if self._lost:
            raise LeaseLost(
                f"{self._where} is held by {_words(self._winner)}, who took it over; "
                "this attempt ends and leaves everything to that one"
            )
        if (silent := time.monotonic() - self._sure_since) > SURE_SECONDS:
            raise InfrastructureError(
                f"{self._store} has not answered for {silent:.0f} s, so that nobody knows whether "
                f"{self._name} is still this process's; nothing is written there until it answers"
            )

    def winner(self) -> dict[str, str | int]:
        """Host, pid and start of the process that has taken it over, where that is known."""
        if self._winner is None:
            return {"host": "another host", "pid": "?", "since": "a moment ago"}
        return {"host": self._winner.host, "pid": self._winner.pid, "since": self._winner.since}

    def give_up(self) -> None:
        """Delete the object, so that others need not wait."""
        current = parse_record(self._store.read(self._name))
        if current is not None and current.token == self._mine.token:
            self._store.delete(self._name)

    @property
    def _where(self) -> str:
        return f"{self._store}/{self._name}"

    def _create(self) -> bool:
        self._sure_since = time.monotonic()
        return self._store.create(self._name, self._bytes())

    def _write(self) -> None:
        self._sure_since = time.monotonic()
        self._store.write(self._name, self._bytes())

    def _replace(self, old: ObjectLeaseRecord | None) -> None:
        """Write over another's object until ours stays: the old holder may have been about to write, and others too."""
        while True:
            self._write()
            time.sleep(SETTLE_SECONDS)
            began = time.monotonic()
            current = parse_record(self._store.read(self._name))
            if current is not None and current.token == self._mine.token:
                self._sure_since = began
                return
            if current is not None and (old is None or current.token != old.token):
                raise ObjectLeaseHeld(_words(current))

    def _bytes(self) -> bytes:
        return self._mine.model_dump_json().encode()


def object_name(lease: str) -> str:
    """Return the name of the object that holds a lease."""
    return f"{LEASES}/{lease}.json"


def parse_record(data: bytes | None) -> ObjectLeaseRecord | None:
    """Return the content of the object; None if there is none, or it cannot be read."""
    try:
        return ObjectLeaseRecord.model_validate_json(data or b"")
    except ValidationError:
        return None


def _words(record: ObjectLeaseRecord | None) -> str:
    return "another process" if record is None else record.words()
