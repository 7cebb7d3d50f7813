"""What the failures of a gang's ranks mean: one is often the cause of the others."""

import re
from collections.abc import Mapping, Sequence

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from cluster.executor import Resized
from cluster.ray.rank import Whereabouts
from configs.base import OutOfMemory, UserError

DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)
"""What Ray raises for a call whose process has died."""

_WORDS = {
    r"node has died|node was (terminated|preempted)": "its node is gone",
    r"receives a (SIG\w+)": r"\1",
    r"exit code (-?\d+)": r"exit code \1",
    r"connection error": "killed, or crashed",
}
"""How Ray 2.60 tells the end of a process, and how we do. The first that fits."""


_MEMORY = r"low on memory|memory usage threshold"
"""Ray's own doing: of any other death it says that it may have been the kernel's OOM killer."""

_ALLOCATION = r"out of memory|can't allocate memory"
"""What torch says of a GPU and of a host."""


class RanksLost(Exception):
    """A process of the gang died, or its host is cut off; nothing in its function raised on its own account."""

    def __init__(self, text: str, where: Whereabouts | None) -> None:
        super().__init__(text)
        self.where = where
        """None if it died before it could say."""


def verdict(failures: Mapping[int, Exception], where: Sequence[Whereabouts]) -> Exception | None:
    """What the failures that are in, by rank, come to: an error of the user, OutOfMemory, else RanksLost, else None."""
    causes = {index: error.cause for index, error in failures.items() if isinstance(error, RayTaskError)}
    for cause in causes.values():
        if isinstance(cause, (UserError, OSError)) and not isinstance(cause, ConnectionError):
            return cause
    for index, cause in causes.items():
        if _is_allocation(cause):
            return out_of_memory(where[index], f"rank {index}", str(cause).strip().partition("\n")[0])
    for index, error in failures.items():
        if isinstance(error, DEATHS):
            return lost(index, where[index], error)
    return None


def last_verdict(failures: Mapping[int, Exception]) -> Exception:
    """What they come to when no other will come in."""
    causes = [error.cause for error in failures.values() if isinstance(error, RayTaskError)]
    return next((cause for cause in causes if isinstance(cause, Resized)), next(iter(failures.values())))


def lost(index: int, where: Whereabouts | None, error: Exception) -> RanksLost | OutOfMemory:
    """Which rank was lost, where, and how it died as far as Ray says."""
    if where and re.search(_MEMORY, str(error)):
        return out_of_memory(where, f"rank {index}", "Ray ended it because the node ran low on memory")
    place = f" on {where.host} ({where.address})" if where else " at the start"
    return RanksLost(f"rank {index}'s process{place} died{_how(str(error))}", where)


def out_of_memory(where: Whereabouts, who: str, how: str) -> OutOfMemory:
    """That there was too little memory, and what helps."""
    return OutOfMemory(
        f"{who} on {where.host} ({where.address}) ran out of memory ({how}); lower micro_batch_size, raise zero_stage, "
        "set activation_checkpointing, or use fewer ranks a node, in the cluster file"
    )


def check_memory(victim: Whereabouts | None, *, node: str, kills: int) -> None:
    """Raise OutOfMemory if the kernel has ended processes for want of memory on a lost rank's node since its start."""
    if victim and node == victim.node and kills > victim.memory_kills:
        raise out_of_memory(victim, "a rank", "the kernel ended it")


def _is_allocation(cause: BaseException | None) -> bool:
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    return bool(
        kinds & {"OutOfMemoryError", "MemoryError"} or ("RuntimeError" in kinds and re.search(_ALLOCATION, str(cause)))
    )


def _how(message: str) -> str:
    for pattern, meaning in _WORDS.items():
        if found := re.search(pattern, message):
            return f" ({found.expand(meaning)})"
    return ""
