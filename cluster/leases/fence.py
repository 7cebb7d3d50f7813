"""A token that says who may write: checked before each commit, so that who has lost a lease commits nothing more."""

import json
from dataclasses import dataclass
from pathlib import Path

from configs.base import InfrastructureError

LEASES = ".leases"
"""Directory of a store, with a file for each lease; cluster/leases/lease.py has how one is taken."""


class LeaseLost(InfrastructureError):
    """Somebody else has taken over."""


@dataclass(frozen=True)
class Fence:
    """A lease as one who writes under it sees it; picklable, for processes on other machines that share the store."""

    path: Path
    token: str | None
    """None: there was no lease, and there must still be none."""

    def check(self) -> None:
        """Raise LeaseLost if the lease has been taken over, or given up."""
        if token_of(self.path) != self.token:
            raise LeaseLost(
                f"{self.path.name} is being made by {holder_in(self.path)}, who took it over; "
                "this attempt ends and leaves everything to that one"
            )

    def check_there(self) -> None:
        """As `check`, in the store that this is a working copy of: StoreFence in cluster/leases/lease.py."""
        self.check()


def fence_of(artifact: Path) -> Fence:
    """The fence of what is being made at `artifact` in its store, as it stands now."""
    path = artifact.parent / LEASES / artifact.name
    return Fence(path, token_of(path))


def token_of(path: Path) -> str | None:
    """The token in a lease's file; None if nobody holds it."""
    token = _read(path).get("token")
    return None if token is None else str(token)


def holder_in(path: Path) -> str:
    """Who holds a lease, in words."""
    seen = _read(path)
    return f"process {seen['pid']} on {seen['host']} since {seen['since']}" if seen else "another process"


def _read(path: Path) -> dict[str, object]:
    try:
        seen = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):  # none, or one that has just begun
        return {}
    return seen if isinstance(seen, dict) else {}
