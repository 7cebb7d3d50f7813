"""A fencing token: checked before each commit, so that a writer who has lost its lease commits nothing more."""

import json
from dataclasses import dataclass
from pathlib import Path

from cluster.host.retry import fixed_waits, retry
from cluster.storage.errors import error_class, ignore_transient, is_transient
from configs.base import LeaseLost

SECONDS_BETWEEN_TRIES = 1.0
PATIENCE_SECONDS = 60.0
"""How long a file system may fail before who may write counts as unknown."""

LEASES = ".leases"
"""Directory of a store, with a file for each lease; cluster/leases/lease.py says how one is taken."""


@dataclass(frozen=True)
class Fence:
    """The right to write under a lease; picklable, for processes on other machines that share the store."""

    path: Path
    token: str | None
    """None: there was no lease, and there must still be none."""

    def check(self) -> None:
        """Raise LeaseLost if the lease has been taken over, or given up.

        A file system that does not answer is asked again for PATIENCE_SECONDS; then raises InfrastructureError.
        """
        try:
            waits = fixed_waits(SECONDS_BETWEEN_TRIES, for_seconds=PATIENCE_SECONDS)
            token = retry(lambda: token_of(self.path), waits=waits, is_transient=is_transient)
        except OSError as error:
            raise error_class(error)(
                f"{self.path}, which says who may write {self.path.name}, cannot be read ({error.strerror}); run this "
                "again once it can"
            ) from error
        self._compare(token)

    def _compare(self, token: str | None) -> None:
        if token != self.token:
            raise LeaseLost(
                f"{self.path.name} is being made by {holder_in(self.path)}, who took it over; "
                "this attempt ends and leaves everything to that one"
            )

    def poll(self) -> None:
        """Check as `check` does, but without waiting: where the file system does not answer, nothing is known yet."""
        with ignore_transient():
            self._compare(token_of(self.path))

    def check_remote(self) -> None:
        """Check before a write to the remote store; where there is none, as `check`. StoreFence asks both."""
        self.check()


def fence_of(artifact: Path) -> Fence:
    """Return the fence of what is being made at `artifact` in its store, as it stands now."""
    path = artifact.parent / LEASES / artifact.name
    return Fence(path, token_of(path))


def token_of(path: Path) -> str | None:
    """Return the token in a lease's file; None if nobody holds it."""
    token = _read(path).get("token")
    return None if token is None else str(token)


def holder_in(path: Path) -> str:
    """Return who holds a lease, in words."""
    holder = _read(path)
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"


def _read(path: Path) -> dict[str, object]:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):  # none, or one that has just begun
        return {}
    return holder if isinstance(holder, dict) else {}
