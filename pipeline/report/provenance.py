"""The parts of the page that come from the records: what was made from what, time, environment, fingerprints."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pydantic import JsonValue

from configs.base import GIB
from pipeline.graph.config_diff import flatten
from pipeline.report.charts import Bar, BarChart, bar_chart
from pipeline.report.tables import NOTHING, Table, settings_rows
from pipeline.store.artifact import Record
from pipeline.store.lineage import duration, observed_lines, shorten_digests, when

Records = Mapping[str, Record]
"""By artifact name; inputs come before what was made from them."""


@dataclass(frozen=True)
class MadeFrom:
    """An input of a step: its slot, its artifact, and whether the artifact's record is still there."""

    slot: str
    artifact: str
    known: bool


@dataclass(frozen=True)
class LineageStep:
    """One artifact and what it was made from."""

    artifact: str
    record: Record
    summary: str
    inputs: Sequence[MadeFrom]
    when: str
    took: str
    code: str
    observed: Sequence[str]


@dataclass(frozen=True)
class TimePart:
    """The wall time of each step, and of each part of training."""

    total: str
    counted_once: Sequence[str]
    """Steps that were begun more than once: only the last attempt is counted."""

    by_step: BarChart
    by_part: BarChart | None
    """None if nothing was trained."""


@dataclass(frozen=True)
class EnvironmentPart:
    """Where the steps ran. What is the same for all is told once."""

    host: str
    """Empty if they differ."""

    code: str
    """Empty if they differ."""

    placement: Sequence[tuple[str, str]]
    """The settings that all steps with a placement share."""

    differences: Table | None
    """The steps by where they ran, with what they do not share; None if all is the same."""

    packages: Sequence[tuple[str, str]]


def lineage_steps(records: Records, summaries: Mapping[str, str]) -> list[LineageStep]:
    """Return every artifact with its inputs, in the order they were made. `summaries` is by artifact name."""
    return [
        LineageStep(
            artifact=name,
            record=record,
            summary=summaries.get(name, ""),
            inputs=[MadeFrom(slot, i.artifact, i.artifact in records) for slot, i in record.all_inputs()],
            when=when(record),
            took=duration(record.seconds) + (f", attempt {record.attempts}" if record.attempts > 1 else ""),
            code=shorten_digests(record.code),
            observed=observed_lines(record.observed),
        )
        for name, record in records.items()
    ]


def time_part(records: Records, training_seconds: Mapping[str, float]) -> TimePart:
    """Return the time of each step in order, and of each part of training, the longest first."""
    by_step = [Bar(record.step, record.seconds, duration(record.seconds)) for record in records.values()]
    parts = sorted(training_seconds.items(), key=lambda part: -part[1])
    by_part = [Bar(part, seconds, duration(seconds)) for part, seconds in parts]
    return TimePart(
        total=duration(sum(record.seconds for record in records.values())),
        counted_once=[record.step for record in records.values() if record.attempts > 1],
        by_step=bar_chart(by_step, title="Wall time by step"),
        by_part=bar_chart(by_part, title="Training time by part") if by_part else None,
    )


def environment_part(records: Records) -> EnvironmentPart:
    """Tell host, code and placement once where all steps share them, and by steps where they do not."""
    placements = {name: dict(_placement_rows(record.placement)) for name, record in records.items()}
    placed = [rows for rows in placements.values() if rows]  # a stage that asks for no executor has none
    common = set.intersection(*(set(rows.items()) for rows in placed)) if placed else set()
    shared = {key: value for key, value in placed[0].items() if (key, value) in common} if placed else {}
    hosts = {record.host for record in records.values()}
    codes = {shorten_digests(record.code) for record in records.values()}
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, record in records.items():
        own = ", ".join(f"{key} {value}" for key, value in placements[name].items() if key not in shared)
        place = (record.host, shorten_digests(record.code), own or NOTHING)
        groups[place].append(record.step)
    rows = [(", ".join(steps), *place) for place, steps in groups.items()]
    versions: dict[str, set[str]] = {}
    for package, version in chain.from_iterable(record.packages.items() for record in records.values()):
        versions.setdefault(package, set()).add(version)
    return EnvironmentPart(
        host=hosts.pop() if len(hosts) == 1 else "",
        code=codes.pop() if len(codes) == 1 else "",
        placement=list(shared.items()),
        differences=Table("Where the steps differ", ("Steps", "Host", "Code", "Placement"), rows, num_text=4)
        if len(groups) > 1
        else None,
        packages=[(name, ", ".join(sorted(found))) for name, found in sorted(versions.items())],
    )


def fingerprints_table(records: Records) -> Table:
    """Return the full fingerprint of each artifact."""
    rows = [(record.step, name, record.fingerprint) for name, record in records.items()]
    return Table("Fingerprints", ("Step", "Artifact", "Fingerprint (SHA-256)"), rows, num_text=3)


def checksum_lines(record: Record) -> str:
    """Return the checksums of an artifact's files, as `sha256sum --check` takes them."""
    return "\n".join(f"{entry.sha256}  {path}" for path, entry in sorted(record.files.items()))


def _placement_rows(placement: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """Return the settings of a placement; a number of bytes is written in GiB, and its key without the word."""
    sizes = {key: value for key, value in flatten(placement) if "_bytes" in key and isinstance(value, int)}
    rows = [(key, value) for key, value in settings_rows(placement) if key not in sizes]
    return rows + [
        (key.replace("memory_bytes", "memory").replace("_bytes", "_memory"), f"{size / GIB:,.1f} GiB")
        for key, size in sizes.items()
    ]
