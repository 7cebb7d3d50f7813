"""Why a step has to be made: what differs from the nearest artifact of its stage that was made before."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pydantic import JsonValue

from configs.base import UserError
from configs.text import shorten
from pipeline.graph.config_diff import ABSENT, Change, diff, flatten
from pipeline.graph.fingerprint import identity_of
from pipeline.graph.plan import PlannedStep
from pipeline.store.artifact import RECORD, Record, read_record

_MAX_RECORDS = 50
"""So many records of a stage are compared with, the newest first."""

_MAX_NAMED = 3
"""So many differences are named; the others are counted."""

_MAX_CHARACTERS = 60
"""A value that differs is shown in so many characters."""


def why_make(step: PlannedStep, store: Path, *, made_anew: set[str], fingerprints: Mapping[str, str]) -> str:
    """Say in a few words why a step has to be made, compared with the nearest earlier artifact of its stage.

    `made_anew` names the steps that have to be made; `fingerprints` has those of all steps, by step name.
    """
    begun = (store / step.artifact).is_dir()
    earlier = list(finished_records(step.stage, store))
    if step.name != step.origin:  # of another source's artifact all would differ
        earlier = [record for record in earlier if record.step == step.name]
    if not earlier:
        return "begun, not finished" if begun else "nothing like it in the store"
    named = [(record.step != step.name, _changes(step, record, made_anew, fingerprints)) for record in earlier]
    _, changes = min(named, key=lambda pair: (pair[0], len(pair[1])))  # among equals the newest
    return ("begun, not finished; " if begun else "") + "because " + _first_few(changes)


def finished_records(stage: str, store: Path) -> Iterator[Record]:
    """Yield the records of a stage's finished artifacts, the newest first, at most 50."""
    paths = sorted(store.glob(f"{stage}-*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in islice(paths, _MAX_RECORDS):
        with suppress(UserError):  # another format, or damaged: it can explain nothing
            if (record := read_record(path.parent)) is not None:
                yield record


def _changes(step: PlannedStep, record: Record, made_anew: set[str], fingerprints: Mapping[str, str]) -> list[str]:
    changes = [] if record.version == step.version else [f"stage version {record.version} -> {step.version}"]
    identity = dict(flatten(identity_of(step.config)))
    by_content = identity.keys() - dict(flatten(identity_of(step.config, observed=True))).keys()
    for change in diff(record.config, step.config.model_dump(mode="json")):
        if change.key in by_content:  # what is there is compared below
            continue
        if change.before is not ABSENT or change.key in identity:  # else it was added since, and has its default
            changes.append(f"steps.{step.origin}.config.{_describe_change(change)}")
    if record.observed != step.observed:
        changes.append(f"the sources changed: {', '.join(_changed_sources(record.observed, step.observed))}")
    for slot in step.inputs:
        before = [made_from.fingerprint for made_from in record.given(slot)]
        given = step.listed(slot)
        if slot not in record.inputs:
            changes.append(f"its input {slot} is new: {', '.join(given)}")
            continue
        for source in given:
            if fingerprints[source] not in before:
                what = "is made anew" if source in made_anew else "is another one"
                changes.append(f"its input {source} {what}")
        if len(before) > len(given):
            changes.append(f"its input {slot} has {len(before) - len(given)} fewer")
    changes += [f"its input {slot} is gone" for slot in record.inputs if slot not in step.inputs]
    return changes


def _describe_change(change: Change) -> str:
    """Return `a.b changed from 1 to 2`, `a.b is new: 1` or `a.b is gone`."""
    if change.before is ABSENT:
        return f"{change.key} is new: {_as_json(change.after)}"
    if change.after is ABSENT:
        return f"{change.key} is gone"
    return f"{change.key} changed from {_as_json(change.before)} to {_as_json(change.after)}"


def _changed_sources(before: JsonValue, now: JsonValue) -> list[str]:
    """Return the sources that changed, each with the files or packages of it that did: `words (words.jsonl)`."""
    old, new = _by_source(before), _by_source(now)
    changed = [name for name in [*new, *(name for name in old if name not in new)] if old.get(name) != new.get(name)]
    return [f"{name} ({_first_few(_changed_names(old.get(name), new.get(name)))})" for name in changed]


def _by_source(observed: JsonValue) -> dict[str, object]:
    return dict(observed) if isinstance(observed, dict) else {"all": observed}


def _changed_names(before: object, now: object) -> list[str]:
    """Return the innermost keys whose values differ."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return ["new" if before is None else "gone" if now is None else "another"]
    keys = [key for key in [*now, *(key for key in before if key not in now)] if before.get(key) != now.get(key)]
    inner = [(key, before.get(key), now.get(key)) for key in keys]
    return [
        name
        for key, old, new in inner
        for name in (_changed_names(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else [str(key)])
    ]


def _first_few(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED] + ([f"{rest:,} more"] if rest > 0 else []))


def _as_json(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), _MAX_CHARACTERS, ellipsis="...")
