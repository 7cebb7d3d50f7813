"""The parts of the report that come from the records (lineage, time, environment, checks), and what parts share."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeVar

from pydantic import JsonValue

from pipeline.graph.config_diff import flatten
from pipeline.report.charts import Bar, bar_chart
from pipeline.report.markup import NOTHING, Html, code, element, facts, join, section, table
from pipeline.store.artifact import Record
from pipeline.store.lineage import GONE, duration, observed_lines, shorten_digests, when

Records = Mapping[str, Record]
T = TypeVar("T")


def lineage_section(records: Records, summaries: Mapping[str, str]) -> Html:
    """Show every artifact with its inputs, in the order they were made. `summaries` is by artifact name."""
    steps = [_step(name, record, records, summaries.get(name, "")) for name, record in records.items()]
    note = (
        "An artifact is named after its stage and the first twelve digits of its fingerprint, which stands for the "
        "settings, the version of the stage, and the fingerprints of all it was made from."
    )
    return section("lineage", "What was made from what", element("p", note), element("ol", *steps, class_="steps"))


def time_section(records: Records, training_seconds: Mapping[str, float]) -> Html:
    """Show the wall time of each step, and of each part of training."""
    by_step = [Bar(record.step, record.seconds, duration(record.seconds)) for record in records.values()]
    # Longest first: what a reader wants to know is where the time went.
    parts = sorted(training_seconds.items(), key=lambda part: -part[1])
    by_part = [Bar(part, seconds, duration(seconds)) for part, seconds in parts]
    step_note = f"{duration(sum(record.seconds for record in records.values()))} in all"
    if again := [record.step for record in records.values() if record.attempts > 1]:
        step_note += f"; begun more than once, so that only the last attempt is counted: {', '.join(again)}"
    return section(
        "time",
        "Time",
        element(
            "div",
            figure("Seconds by step", step_note, bar_chart(by_step, title="Wall time by step")),
            figure("Training by part", "Sums over all steps", bar_chart(by_part, title="Training time by part")),
            class_="side",
        ),
    )


def environment_section(records: Records) -> Html:
    """Show each step's host and placement, and the versions of packages."""
    rows = [(r.step, r.host, _placement(r.placement), shorten_digests(r.code)) for r in records.values()]
    versions: dict[str, set[str]] = {}
    for package, version in chain.from_iterable(record.packages.items() for record in records.values()):
        versions.setdefault(package, set()).add(version)
    packages = [(name, ", ".join(sorted(found))) for name, found in sorted(versions.items())]
    return section(
        "environment",
        "Environment",
        table("Where each step ran", ("Step", "Host", "Placement", "Code"), rows, num_text=4),
        element("h3", "Packages"),
        facts(packages, class_="facts settings"),
    )


def check_section(records: Records, export: str) -> Html:
    """Show the full fingerprints, and the checksums of the files of the artifact named `export`."""
    rows = [(record.step, code(name), code(record.fingerprint)) for name, record in records.items()]
    lines = [f"{entry.sha256}  {path}" for path, entry in sorted(records[export].files.items())]
    sums = element("pre", element("code", "\n".join(lines), translate="no"))
    return section(
        "check",
        "How to check",
        element("p", "The same recipe, with the same sources and versions of stages, gives these fingerprints again."),
        table("Fingerprints", ("Step", "Artifact", "Fingerprint (SHA-256)"), rows, num_text=3),
        element("h3", "Files of the exported model"),
        element(
            "p", "In the directory ", code(export), ", ", code("sha256sum --check"), " takes these lines as input."
        ),
        element("div", sums, class_="scroll", tabindex="0", role="region", aria_label="SHA-256 of the files"),
    )


def figure(title: str, note: str, *children: str) -> Html:
    """Return a drawing under its caption."""
    caption = element("figcaption", title, element("span", note)) if note else element("figcaption", title)
    return element("figure", caption, *children)


def settings_rows(settings: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """Return nested settings as dotted keys and values, as `--set` takes them; null and empty ones are left out."""
    return [(key, _setting(value)) for key, value in flatten(settings) if value is not None and value != {}]


def _step(name: str, record: Record, records: Records, summary: str) -> Html:
    title = element("h3", record.step, element("span", f"{record.stage}, version {record.version}"))
    pairs: list[tuple[str, str]] = [("Artifact", code(name))]
    if record.inputs:
        links = [_input(slot, made_from.artifact, records) for slot, made_from in record.inputs.items()]
        pairs.append(("Made from", join(links, ", ")))
    pairs += [("Begun", _time(record)), ("Took", _took(record)), ("Code", code(shorten_digests(record.code)))]
    children = [title, element("p", summary)] if summary else [title]
    return element("li", *children, facts(pairs), *_observed(record), id=name)


def _input(slot: str, artifact: str, records: Records) -> Html:
    if artifact in records:
        return element("a", slot, href=f"#{artifact}")
    return join([f"{slot} ", code(artifact), f" {GONE}"])


def _observed(record: Record) -> list[Html]:
    lines = observed_lines(record.observed)
    if not lines:
        return []
    items = element("ul", *[element("li", code(line)) for line in lines])
    return [element("details", element("summary", "What the sources held"), items)]


def _took(record: Record) -> str:
    return duration(record.seconds) + (f", attempt {record.attempts}" if record.attempts > 1 else "")


def _time(record: Record) -> Html:
    return element("time", when(record), datetime=record.started.isoformat())


def _placement(placement: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings_rows(placement)) or NOTHING


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def split(rows: Sequence[T], columns: int = 3, *, least: int = 10) -> list[Sequence[T]]:
    """Divide rows into up to `columns` runs to be side by side, each of at least `least` rows if there are so many."""
    size = max(least, -(-len(rows) // columns))
    return [rows[i : i + size] for i in range(0, len(rows), size)]
