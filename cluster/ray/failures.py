"""Classifies the failures of a gang's ranks: which is the cause of the others, and what it means for the run.

A rank's failure is either an exception that its function raised (RayTaskError) or the death of its process
(PROCESS_DEATHS). It comes to an error of the user, which ends the run; to OutOfMemory, which would come again; or to
RanksLost, after which all ranks are restarted.
"""

import re
from collections.abc import Mapping, Sequence

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from cluster.executor import Resized
from cluster.ray.rank import RankLocation
from configs.base import OutOfMemory, UserError

PROCESS_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)
"""What Ray raises for a call whose process has died."""

_DEATH_DESCRIPTIONS = {
    r"node has died|node was (terminated|preempted)": "its node is gone",
    r"receives a (SIG\w+)": r"\1",
    r"exit code (-?\d+)": r"exit code \1",
    r"connection error": "killed, or crashed",
}
"""How Ray 2.60 describes the end of a process, and how we do. The first pattern that fits counts."""

_RAY_MEMORY_KILL = r"low on memory|memory usage threshold"
"""Ray's words where it killed the process itself; of any other death it says that it may have been the OOM killer."""

_ALLOCATION_FAILURE = r"out of memory|can't allocate memory"
"""What torch says of a GPU and of a host."""


class RanksLost(Exception):
    """A process of the gang died, or its host is cut off; nothing in its function raised on its own account."""

    def __init__(self, text: str, location: RankLocation | None) -> None:
        super().__init__(text)
        self.location = location
        """Where the lost rank was; None if it died before it could say."""


def classify_failure(failures: Mapping[int, Exception], locations: Sequence[RankLocation]) -> Exception | None:
    """Return what the failures so far, by rank, mean; None while a later one may explain them.

    That is an error of the user (or of the system, as an OSError) if there is one, else OutOfMemory, else RanksLost.
    """
    causes = {index: error.cause for index, error in failures.items() if isinstance(error, RayTaskError)}
    for cause in causes.values():
        if isinstance(cause, (UserError, OSError)) and not isinstance(cause, ConnectionError):
            return cause
    for index, cause in causes.items():
        if _is_allocation_failure(cause):
            return out_of_memory(locations[index], f"rank {index}", str(cause).strip().partition("\n")[0])
    for index, error in failures.items():
        if isinstance(error, PROCESS_DEATHS):
            return classify_death(index, locations[index], error)
    return None


def final_failure(failures: Mapping[int, Exception]) -> Exception:
    """Return what the failures mean when no other will come in: Resized if a rank made way, else the first."""
    causes = [error.cause for error in failures.values() if isinstance(error, RayTaskError)]
    return next((cause for cause in causes if isinstance(cause, Resized)), next(iter(failures.values())))


def classify_death(index: int, location: RankLocation | None, error: Exception) -> RanksLost | OutOfMemory:
    """Return which rank's process died, where, and how as far as Ray says."""
    if location and re.search(_RAY_MEMORY_KILL, str(error)):
        return out_of_memory(location, f"rank {index}", "Ray ended it because the node ran low on memory")
    place = f" on {location.host} ({location.address})" if location else " at the start"
    return RanksLost(f"rank {index}'s process{place} died{_describe_death(str(error))}", location)


def out_of_memory(location: RankLocation, who: str, how: str) -> OutOfMemory:
    """Return the error which says that there was too little memory, and what helps."""
    return OutOfMemory(
        f"{who} on {location.host} ({location.address}) ran out of memory ({how}); lower micro_batch_size, raise "
        "zero_stage, set activation_checkpointing, or use fewer ranks a node, in the cluster file"
    )


def check_memory_kills(lost_rank: RankLocation | None, *, node: str, kills: int) -> None:
    """Raise OutOfMemory if the kernel's OOM killer was at work on a lost rank's node since the rank's start."""
    if lost_rank and node == lost_rank.node and kills > lost_rank.memory_kills:
        raise out_of_memory(lost_rank, "a rank", "the kernel ended it")


def _is_allocation_failure(cause: BaseException | None) -> bool:
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    return bool(
        kinds & {"OutOfMemoryError", "MemoryError"}
        or ("RuntimeError" in kinds and re.search(_ALLOCATION_FAILURE, str(cause)))
    )


def _describe_death(message: str) -> str:
    for pattern, words in _DEATH_DESCRIPTIONS.items():
        if found := re.search(pattern, message):
            return f" ({found.expand(words)})"
    return ""
