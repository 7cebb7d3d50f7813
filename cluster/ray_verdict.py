"""What the failures of a gang's ranks mean: one is often the cause of the others."""

import re
from collections.abc import Mapping, Sequence

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from cluster.ray_rank import Whereabouts
from configs.base import UserError

DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)
"""What Ray raises for a call whose process has died."""

_WORDS = {
    r"low on memory|memory usage threshold": "Ray ended it because the node ran low on memory",
    r"node has died|node was (terminated|preempted)": "its node is gone",
    r"receives a (SIG\w+)": r"\1",
    r"exit code (-?\d+)": r"exit code \1",
    r"connection error": "killed, or crashed",
}
"""How Ray 2.60 tells the end of a process, and how we do. The first that fits."""


class RanksLost(Exception):
    """A process of the gang died; nothing in its function raised on its own account."""


def verdict(failures: Mapping[int, Exception], where: Sequence[Whereabouts]) -> Exception | None:
    """What the failures that are in, by rank, come to: an error of the user, else RanksLost, else None."""
    causes = [error.cause for error in failures.values() if isinstance(error, RayTaskError)]
    for cause in causes:
        if isinstance(cause, (UserError, OSError)) and not isinstance(cause, ConnectionError):
            return cause
    for index, error in failures.items():
        if isinstance(error, DEATHS):
            return lost(index, where[index], error)
    return None


def lost(index: int, where: Whereabouts | None, error: Exception) -> RanksLost:
    """Which rank was lost, where, and how it died as far as Ray says."""
    place = f" on {where.host} ({where.address})" if where else " at the start"
    return RanksLost(f"rank {index}'s process{place} died{_how(str(error))}")


def _how(message: str) -> str:
    for pattern, meaning in _WORDS.items():
        if found := re.search(pattern, message):
            return f" ({found.expand(meaning)})"
    return ""
