"""The parts of the page that come from the records: lineage, time and cost, environment, fingerprints."""

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
from training.manifests import counted

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
    """The wall time of each step, and of each part of training; the hours of devices, and what they cost."""

    total: str
    counted_once: Sequence[str]
    """Steps that were begun more than once: only the last attempt is counted."""

    by_step: BarChart
    by_part: BarChart | None
    """None if nothing was trained."""

    usage: Table
    """By step: wall time, devices, their hours, and with prices the cost."""

    cost: str
    """The cost of all steps; empty without prices."""

    unpriced: Sequence[str]
    """Devices whose price is not known, so that they are not in the cost; empty without any price."""


@dataclass(frozen=True)
class _Use:
    """The devices that a step was laid out on: GPUs, or cores where it used none."""

    device: str
    number: float
    hours: float
    """The wall time of its last attempt, times their number."""

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


_ON_DEVICES = ("train", "evaluate")
"""Stages that compute on GPUs, where their pools have some; the others are parallel work on cores."""


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


def time_part(
    records: Records, training_seconds: Mapping[str, float], prices: Mapping[str, float], currency: str
) -> TimePart:
    """Return the time of each step in order, and of each part of training, the longest first.

    `prices` are of an hour of a device, by PyTorch's type of it.
    """
    uses = {name: _use_of(record) for name, record in records.items()}
    priced = [use.hours * prices[use.device] for use in uses.values() if use.device in prices]
    by_step = [Bar(record.step, record.seconds, duration(record.seconds)) for record in records.values()]
    parts = sorted(training_seconds.items(), key=lambda part: -part[1])
    by_part = [Bar(part, seconds, duration(seconds)) for part, seconds in parts]
    return TimePart(
        total=duration(sum(record.seconds for record in records.values())),
        counted_once=[record.step for record in records.values() if record.attempts > 1],
        by_step=bar_chart(by_step, title="Wall time by step"),
        by_part=bar_chart(by_part, title="Training time by part") if by_part else None,
        usage=_usage_table(records, uses, prices, currency),
        cost=f"{sum(priced):,.2f} {currency}" if prices else "",
        unpriced=sorted({use.device for use in uses.values()} - set(prices)) if prices else [],
    )


def _use_of(record: Record) -> _Use:
    """Return what a step used: GPUs one a rank, else the cores of its ranks or of its parallel work.

    A step that asked for no machine is the driver alone, one core.
    """

    def number(key: str) -> float:
        value = record.placement.get(key)
        return float(value) if isinstance(value, int | float) else 1.0

    device = str(record.placement.get("device", "cpu"))
    if record.stage in _ON_DEVICES and device != "cpu":
        count = number("num_ranks")
    elif record.stage == "train":
        device, count = "cpu", number("num_ranks") * number("cpu_share")
    else:
        device, count = "cpu", number("num_tasks") * number("cpus_per_task")
    return _Use(device, count, count * record.seconds / 3600)


def _usage_table(records: Records, uses: Mapping[str, _Use], prices: Mapping[str, float], currency: str) -> Table:
    """Return wall time, devices and their hours by step and in all; with prices the cost of those that have one."""

    def cells(first: str, seconds: float, devices: str, own: Sequence[_Use]) -> list[str]:
        gpus, cores = [use.hours for use in own if not use.is_cpu], [use.hours for use in own if use.is_cpu]
        hours = [f"{sum(one):,.3f}" if one else NOTHING for one in (gpus, cores)]
        costs = [use.hours * prices[use.device] for use in own if use.device in prices]
        cost = [f"{sum(costs):,.2f}" if costs else NOTHING] if prices else []
        return [first, duration(seconds), devices, *hours, *cost]

    def named(use: _Use) -> str:
        return counted(round(use.number), "core") if use.is_cpu else f"{use.number:,.0f} {use.device}"

    return Table(
        caption="Device-hours by step",
        heads=("Step", "Wall time", "Devices", "GPU-hours", "Core-hours", *([f"Cost, {currency}"] if prices else [])),
        rows=[cells(record.step, record.seconds, named(uses[name]), [uses[name]]) for name, record in records.items()],
        total=cells("All", sum(record.seconds for record in records.values()), "", list(uses.values())),
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
