"""A lease in a store: an object that its holder rewrites every few seconds, for a store has no locks.

Who sees it unchanged for a while, by its own clock, puts its own in its place. A store cannot compare and write in one
step, so a holder trusts what it read last for less time than its successor waits before it begins.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.host.console import say
from cluster.leases.fence import LEASES, LeaseLost
from cluster.storage.objects import Objects
from configs.base import InfrastructureError, UserError

SECONDS_BETWEEN_BEATS = 5.0
SURE_SECONDS = 12.0
"""For how long a holder trusts what it has last read."""

SETTLE_SECONDS = 15.0
"""How long who has taken over waits before it begins: more than SURE_SECONDS."""

DEAF_AFTER_SECONDS = 45.0
"""A holder that has not rewritten its claim for so long is dead, or cut off from the store."""

_SECONDS_BETWEEN_LOOKS = 1.0


class ClaimHeld(UserError):
    """Somebody else has it. The message is who, in words."""


class ClaimRecord(BaseModel):
    """What the object says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    host: str
    pid: int
    since: str
    beat: int = 0
    """How often it was rewritten."""

    time: datetime
    """Of the last beat, by the holder's clock."""

    def words(self) -> str:
        """Who it is."""
        return f"process {self.pid} on {self.host} since {self.since}"


class Claim:
    """One holder's claim on a name in a store."""

    def __init__(self, store: Objects, lease: str, holder: Mapping[str, str | int]) -> None:
        """`holder` has the token, host, pid and since of a ClaimRecord."""
        self._store, self._name = store, claim_name(lease)
        self._mine = ClaimRecord.model_validate({**holder, "time": datetime.now(UTC)})
        self._sure_since = float("-inf")
        self._lost = False
        self._winner: ClaimRecord | None = None

    def take(self, *, former: str | None, take_over: bool) -> None:
        """Take it, from a holder that is silent or has the token `former`, which is known to be dead; else ClaimHeld.

        With `take_over` from a living one too. Watches for DEAF_AFTER_SECONDS at most, and SETTLE_SECONDS more.
        """
        began, first = time.monotonic(), b""
        while not self._create():
            seen = self._store.read(self._name)
            there = parse_claim(seen)
            if there is not None and there.token == self._mine.token:
                return None  # the store's first answer was lost
            if there is not None and there.token == former:
                return self._write()
            if seen is not None and (take_over or time.monotonic() - began >= DEAF_AFTER_SECONDS):
                say(f"{self._where} is taken over from {_words(there)}; that takes {SETTLE_SECONDS:g} s")
                return self._replace(there)
            if first and seen is not None and seen != first:
                raise ClaimHeld(_words(there))
            if not first:
                say(f"{self._where}: seeing whether {_words(there)} lives, for {DEAF_AFTER_SECONDS:g} s at most")
            first = seen or b""
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return None

    def beat(self) -> None:
        """Show that the holder lives. Raises LeaseLost once somebody else has it; or what the store raises."""
        began = time.monotonic()
        there = parse_claim(self._store.read(self._name))
        if there is None or there.token != self._mine.token:
            self._lost, self._winner = True, there
            self.check()
        self._sure_since = began
        self._mine = self._mine.model_copy(update={"beat": self._mine.beat + 1, "time": datetime.now(UTC)})
        self._store.write(self._name, self._bytes())

    def check(self) -> None:
        """Raise LeaseLost if somebody else has it, InfrastructureError if that is not known. Does not ask the store."""
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
        """Host, pid and since of who has taken it over, where that is known."""
        if self._winner is None:
            return {"host": "another host", "pid": "?", "since": "a moment ago"}
        return {"host": self._winner.host, "pid": self._winner.pid, "since": self._winner.since}

    def give_up(self) -> None:
        """Let others have it at once."""
        there = parse_claim(self._store.read(self._name))
        if there is not None and there.token == self._mine.token:
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

    def _replace(self, old: ClaimRecord | None) -> None:
        """Write over another's, until it stays: the old holder may have been about to write, others too."""
        while True:
            self._write()
            time.sleep(SETTLE_SECONDS)
            began = time.monotonic()
            there = parse_claim(self._store.read(self._name))
            if there is not None and there.token == self._mine.token:
                self._sure_since = began
                return
            if there is not None and (old is None or there.token != old.token):
                raise ClaimHeld(_words(there))

    def _bytes(self) -> bytes:
        return self._mine.model_dump_json().encode()


def claim_name(lease: str) -> str:
    """Name of the object."""
    return f"{LEASES}/{lease}.json"


def parse_claim(data: bytes | None) -> ClaimRecord | None:
    """What the object says; None if there is none, or one that nobody can read."""
    try:
        return ClaimRecord.model_validate_json(data or b"")
    except ValidationError:
        return None


def _words(there: ClaimRecord | None) -> str:
    return "another process" if there is None else there.words()
