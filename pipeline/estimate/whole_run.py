"""How long all that is to be made takes, and what the time limits of its cluster make of that."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from configs.cluster import ClusterConfig
from configs.launchers import SlurmLauncher
from pipeline.estimate.basis import Range
from pipeline.estimate.rows import describe_range
from pipeline.store.lineage import duration


@dataclass(frozen=True)
class WholeRun:
    """What the steps that are to be made take, one after the other."""

    seconds: Range | None
    """Time of the steps for which it is known; None if it is for none."""

    unknown: tuple[str, ...]
    """Names of the steps whose time is not known."""

    seconds_per_job: float | None
    """What a job of the launcher has for work before it is warned of its time limit; None without a known limit."""

    num_jobs: tuple[int, int] | None
    """The fewest and the most jobs that these steps take, each of which waits in the queue; None without a limit."""

    exceeds: str
    """What the run's own time limit leaves undone, in words; empty if nothing."""


def whole_run(times: Mapping[str, Range | None], cluster: ClusterConfig) -> WholeRun:
    """Return what steps take in all; `times` has those that are to be made, by name."""
    known = [found for found in times.values() if found is not None]
    total = Range(sum(one.low for one in known), sum(one.high for one in known)) if known else None
    unknown = tuple(name for name, found in times.items() if found is None)
    job = _seconds_per_job(cluster)
    jobs = None if total is None or job is None else (max(1, ceil(total.low / job)), max(1, ceil(total.high / job)))
    return WholeRun(total, unknown, job, jobs, _exceeds(total, cluster))


def describe_whole(found: WholeRun) -> list[str]:
    """Return the lines of a plan about the whole run; none if the time of no step is known."""
    if found.seconds is None:
        return []
    what = f"all but {', '.join(found.unknown)}, whose time is not known," if found.unknown else "in all"
    lines = [f"{what} {describe_range(found.seconds)}"]
    if found.num_jobs is not None and found.seconds_per_job is not None:
        low, high = found.num_jobs
        shown = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        least = "at least " if found.unknown else ""
        lines.append(
            f"{least}{shown} job{'s' if high > 1 else ''} of {duration(found.seconds_per_job)} of work "
            "(launcher.time_limit_minutes), and a wait in the queue for each"
        )
    return [*lines, *([found.exceeds] if found.exceeds else [])]


def _seconds_per_job(cluster: ClusterConfig) -> float | None:
    launcher = cluster.launcher
    if not isinstance(launcher, SlurmLauncher) or launcher.time_limit_minutes is None:
        return None
    return max(60.0, 60.0 * launcher.time_limit_minutes - launcher.signal_seconds)


def _exceeds(total: Range | None, cluster: ClusterConfig) -> str:
    limit = cluster.time_limit_minutes
    if total is None or limit is None or total.high <= 60 * limit:
        return ""
    verb = "ends" if total.low > 60 * limit else "may end"
    return f"the run {verb} before it is done, after {duration(60 * limit)} (time_limit_minutes of the cluster file)"
