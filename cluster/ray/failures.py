"""Classifies the failures of a gang's ranks: which is the cause of the others, and what it means for the run.

A rank's failure is either an exception that its function raised (RayTaskError) or the death of its process
(PROCESS_DEATHS). It comes to an error of the user, which ends the run; to OutOfMemory, which would come again; or to
RanksLost, after which all ranks are restarted. Of several the cause is, in this order: a device that failed, a process
that died by itself, one that ended because of its peers (SIGABRT, as NCCL ends a process; or because it waited for
them too long, as it has printed), ranks that lost each other.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from cluster.device_errors import failure_kind, out_of_memory
from cluster.executor import Resized
from cluster.rank_output import Ended
from cluster.ray.connection import first_line
from cluster.ray.nodes import live_nodes
from cluster.ray.rank import RankLocation
from cluster.storage.errors import is_outage
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


class RanksLost(Exception):
    """A process of the gang died, its device failed, or its host is cut off: not the fault of what it computed."""

    def __init__(
        self,
        text: str,
        location: RankLocation | None,
        *,
        rank: int | None = None,
        is_certain: bool = False,
        by_storage: bool = False,
    ) -> None:
        super().__init__(text)
        self.by_storage = by_storage
        """Whether a file system failed, which the ranks share."""

        self.is_certain = is_certain
        """Whether it is certain to come again on this host."""

        self.location = location
        """Where the lost rank was; None if it died before it could say, or nobody is known to be at fault."""

        self.rank = rank
        """The rank that was lost, or failed first; None of a whole host."""

        self.last_words = ""
        """What the rank printed last, to follow the text."""

    def __str__(self) -> str:
        return super().__str__() + self.last_words

    def describe_end(self, label: str, num_restarts: int) -> str:
        """Return the sentence for a gang that was restarted so often, and is not again."""
        what = f"{label}: {self}, after {num_restarts} restarts"
        return f"{what}; look for what kills it, then run the same command to go on"


def classify_failure(
    failures: Mapping[int, Exception],
    locations: Sequence[RankLocation],
    ends: Mapping[int, Ended] = MappingProxyType({}),
) -> Exception | None:
    """Return what the failures so far, by rank, mean; None while a later one may explain them.

    `ends`: what ranks that have ended themselves have printed of why.

    That is an error of the user (or of the system, as an OSError) if there is one, else OutOfMemory, else RanksLost.
    """
    kinds = {index: failure_kind(error.cause) for index, error in failures.items() if isinstance(error, RayTaskError)}
    causes = {index: error.cause for index, error in failures.items() if isinstance(error, RayTaskError)}
    own = {index: cause for index, cause in causes.items() if isinstance(cause, (UserError, OSError))}
    own = {index: cause for index, cause in own.items() if not isinstance(cause, ConnectionError)}
    for cause in own.values():
        if not is_outage(cause):
            return cause
    for index, cause in causes.items():
        if kinds[index] == "memory":
            return out_of_memory(_where(index, locations[index]), first_line(cause))
    for index, cause in causes.items():
        if kinds[index] == "device":
            return _lost(index, locations[index], f"its device failed ({first_line(cause)})")
    for index, error in failures.items():
        if ends.get(index) == "hung":
            return _lost(index, locations[index], "it hung, and the others waited for it")
        if index not in ends and isinstance(error, PROCESS_DEATHS):
            return classify_death(index, locations[index], error)
    for index, cause in own.items():  # of no host: a file system that all share hiccups anywhere
        return RanksLost(
            f"{_where(index, locations[index])} could not read or write ({first_line(cause)})",
            None,
            rank=index,
            by_storage=True,
        )
    return None


def final_failure(
    failures: Mapping[int, Exception],
    locations: Sequence[RankLocation],
    ends: Mapping[int, Ended] = MappingProxyType({}),
) -> Exception:
    """Return what the failures mean when no other will come in.

    That is Resized if a rank made way, else what a rank raised that is no loss of others, else RanksLost: nobody's
    fault as far as is known, unless one rank alone has failed, or the others waited for ranks of one host, which have
    not ended even so.
    """
    causes = {index: error.cause for index, error in failures.items() if isinstance(error, RayTaskError)}
    for cause in causes.values():
        if isinstance(cause, Resized):
            return cause
    for index, cause in causes.items():
        if failure_kind(cause) is None:
            return failures[index]
    index, error = next(iter(failures.items()))
    alone = len(failures) == 1
    if "waited" in ends.values():
        return _waited_in_vain(failures, locations)
    if index not in causes:
        return classify_death(index, locations[index], error) if alone else _lost_each_other(failures)
    how = f"it lost the others ({first_line(causes[index])})"
    return _lost(index, locations[index], how) if alone else _lost_each_other(failures)


def _waited_in_vain(failures: Mapping[int, Exception], locations: Sequence[RankLocation]) -> RanksLost:
    stuck = [index for index in range(len(locations)) if index not in failures]
    hosts = {locations[index].host for index in stuck}
    if len(hosts) == 1:
        return _lost(stuck[0], locations[stuck[0]], "it does not answer, and the others waited for it")
    return RanksLost(f"{len(failures)} ranks waited too long for each other; which is at fault is not known", None)


def _lost_each_other(failures: Mapping[int, Exception]) -> RanksLost:
    index, error = next(iter(failures.items()))
    cause = error.cause if isinstance(error, RayTaskError) else None
    how = f" ({first_line(cause)})" if cause is not None else _describe_death(str(error))
    return RanksLost(
        f"{len(failures)} ranks lost each other, rank {index} first{how}; which is at fault is not known",
        None,
        rank=index,
    )


def _lost(index: int, location: RankLocation, how: str) -> RanksLost:
    return RanksLost(f"{_where(index, location)} is lost: {how}", location, rank=index)


def _where(index: int, location: RankLocation) -> str:
    return f"rank {index} on {location.host} ({location.address})"


def classify_death(index: int, location: RankLocation | None, error: Exception) -> RanksLost | OutOfMemory:
    """Return which rank's process died, where, and how as far as Ray says."""
    if location and re.search(_RAY_MEMORY_KILL, str(error)):
        return out_of_memory(_where(index, location), "Ray ended it because the node ran low on memory")
    place = f" on {location.host} ({location.address})" if location else " at the start"
    return RanksLost(f"rank {index}'s process{place} died{_describe_death(str(error))}", location, rank=index)


def check_memory_kills(lost_rank: RankLocation | None, *, node: str, kills: int) -> None:
    """Raise OutOfMemory if the kernel's OOM killer was at work on a lost rank's node since the rank's start."""
    if lost_rank and node == lost_rank.node and kills > lost_rank.memory_kills:
        raise out_of_memory(f"a rank on {lost_rank.host} ({lost_rank.address})", "the kernel ended it")


def _describe_death(message: str) -> str:
    for pattern, words in _DEATH_DESCRIPTIONS.items():
        if found := re.search(pattern, message):
            return f" ({found.expand(words)})"
    return ""


class DeviceFailed(Exception):
    """The device of an item's worker failed."""

    def __init__(self, host: str, how: str) -> None:
        super().__init__(f"the device of an item on {host} failed ({how})")
        self.host = host


def host_of_error(error: RayTaskError) -> str:
    """Return the host of the worker that an item failed on, by the text of Ray's error, the one place that has it."""
    found = re.search(r"\bip=([0-9A-Fa-f.:]+)", str(error))
    address = found[1] if found else "?"
    return next((n.host for n in live_nodes() if n.address.rpartition(":")[0] == address), address)
