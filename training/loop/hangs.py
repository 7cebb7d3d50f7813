"""Who is at fault when all ranks wait for each other, by what each wrote: its stacks and the record of its collectives.

The record is that of PyTorch's flight recorder (torch.distributed, NCCL and gloo): how many collectives this rank has
entered in each process group. A rank that has entered fewer than the others is the one they wait for. Without such
records the stacks must do: a rank with no thread in a collective, while others have one.

Ranks that have nothing to wait for are suspects; so are those that wrote nothing, as a stopped process does. If all
suspects are on one host it is to blame, else nobody is: a network that is cut, or ranks that ran different programs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.host.files import write_text
from configs.base import UserError

STACKS = "stacks"
"""Name of the directory, in a training, of what ranks that hung have written, one directory a hang."""

_HEADING = re.compile(r"rank (\d+) of (\d+) on (\S+), during (.*)")
_IN_COLLECTIVE = re.compile(r'File ".*[/\\](torch[/\\]distributed|deepspeed[/\\]comm)[/\\]')
_VERDICT = "verdict.json"
_WATCHER = "watchdog.py"
"""The thread that writes the stacks is in this file, and waits for nobody."""


@dataclass(frozen=True)
class RankStacks:
    """What one rank wrote when it hung."""

    rank: int
    world_size: int
    host: str
    work: str
    """What it was at."""

    in_collective: bool
    """Whether a thread of its is in a collective, by its stacks."""

    entered: Mapping[str, int] | None
    """How many collectives it has entered, by process group; None without a flight record."""

    started: Mapping[str, int] | None
    """How many of them its device has begun; -1 where that is not known, as with gloo."""


@dataclass(frozen=True)
class Verdict:
    """What the stacks and records of a hang say."""

    suspects: tuple[int, ...]
    """The ranks that the others wait for; empty if that cannot be told."""

    host: str | None
    """The host of all suspects that wrote anything; None if it is not one, or none wrote."""

    text: str
    """A sentence for the user."""


def heading(rank: int, world_size: int, host: str, work: str) -> str:
    """Return the first line of a rank's file."""
    return f"rank {rank} of {world_size} on {host}, during {work}\n"


def read_hang(directory: Path) -> list[RankStacks]:
    """Read what the ranks of one hang wrote, in their order. Raises UserError if a file is not what it should be."""
    return [_read_rank(path) for path in sorted(directory.glob("rank-*.txt"))]


def judge(found: Sequence[RankStacks]) -> Verdict:
    """Say whom the ranks wait for."""
    if not found:
        return Verdict((), None, "no rank has written its stacks")
    missing = set(range(found[0].world_size)) - {one.rank for one in found}
    suspects = _by_records(found)
    if suspects is None:
        suspects = {one.rank for one in found if not one.in_collective}
    if len(suspects | missing) in (0, found[0].world_size):
        return Verdict((), None, "which rank is at fault is not known")
    hosts = {one.host for one in found if one.rank in suspects}
    where = f" on {', '.join(sorted(hosts))}" if hosts else ""
    named = sorted(suspects | missing)
    ranks = f"rank{'s' if len(named) > 1 else ''} {', '.join(map(str, named[:8]))}{' and more' * (len(named) > 8)}"
    reasons = [f"{len(missing)} of them wrote nothing"] if missing else []
    reasons += [f"rank {one.rank} during {one.work}" for one in found if one.rank in suspects][:1]
    host = next(iter(hosts)) if len(hosts) == 1 and not missing else None
    return Verdict(tuple(named), host, f"the others wait for {ranks}{where} ({'; '.join(reasons)})")


def write_verdict(directory: Path, verdict: Verdict) -> None:
    """Write the verdict beside the stacks, for the other ranks."""
    write_text(directory / _VERDICT, json.dumps(asdict(verdict)))


def read_verdict(directory: Path) -> Verdict | None:
    """Read the verdict; None while there is none."""
    try:
        found = json.loads((directory / _VERDICT).read_bytes())
    except FileNotFoundError:
        return None
    return Verdict(tuple(found["suspects"]), found["host"], found["text"])


def _by_records(found: Sequence[RankStacks]) -> set[int] | None:
    """Return the ranks that have entered fewest collectives of a group, or whose devices have begun fewest.

    None if the records do not tell: there are none, all are alike, or the groups name different ranks.
    """
    for counts in ([one.entered for one in found], [one.started for one in found]):
        behind = [ranks for ranks in _behind_by_group(found, counts) if ranks]
        if behind:
            return behind[0] if all(ranks == behind[0] for ranks in behind) else None
    return None


def _behind_by_group(found: Sequence[RankStacks], counts: Sequence[Mapping[str, int] | None]) -> list[set[int]]:
    known = [(one.rank, count) for one, count in zip(found, counts, strict=True) if count is not None]
    behind = []
    for group in sorted({name for _, count in known for name in count}):
        by_rank = {rank: count[group] for rank, count in known if group in count}
        least = min(by_rank.values())
        behind.append({rank for rank, number in by_rank.items() if number == least < max(by_rank.values())})
    return behind


def _read_rank(path: Path) -> RankStacks:
    first, _, stacks = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    fields = _HEADING.fullmatch(first)
    if fields is None:
        raise UserError(f"{path} does not begin as the stacks of a rank do; see them by hand")
    entered, started = _read_record(path.with_suffix(".json"))
    threads = [thread for thread in re.split(r"\n\n", stacks) if _WATCHER not in thread]
    return RankStacks(
        rank=int(fields[1]),
        world_size=int(fields[2]),
        host=fields[3],
        work=fields[4],
        in_collective=any(_IN_COLLECTIVE.search(thread) for thread in threads),
        entered=entered,
        started=started,
    )


def _read_record(path: Path) -> tuple[Mapping[str, int] | None, Mapping[str, int] | None]:
    """Read a flight record's counts by process group: PyTorch writes them as text in `pg_status`."""
    try:
        groups = json.loads(path.read_bytes())["pg_status"]
        entered = {name: int(group["last_enqueued_collective"]) for name, group in groups.items()}
        started = {name: int(group["last_started_collective"]) for name, group in groups.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no recorder, or one of another version
        return None, None
    return (entered, started) if entered else (None, None)
