"""Why a step has to be made: what is not as it was when something like it was made before."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pydantic import JsonValue

from configs.base import UserError
from pipeline.graph.plan import PlannedStep
from pipeline.store.artifact import RECORD, Record, read_record

_MAX_RECORDS = 50
"""No more records of a stage are looked at, the newest first."""

_MAX_NAMED = 3
"""Differences named; of the others the number."""

_ABSENT = object()


def why_make(step: PlannedStep, store: Path, *, made_anew: set[str], fingerprints: Mapping[str, str]) -> str:
    """In a few words, against the nearest earlier artifact of the stage.

    `made_anew` are the steps that have to be made, `fingerprints` those of all steps, by name.
    """
    begun = (store / step.artifact).is_dir()
    earlier = list(finished(step.stage, store))
    if not earlier:
        return "begun, not finished" if begun else "nothing like it in the store"
    named = [(record.step != step.name, _changes(step, record, made_anew, fingerprints)) for record in earlier]
    _, changes = min(named, key=lambda pair: (pair[0], len(pair[1])))  # of equals the newest
    return ("begun, not finished; " if begun else "") + "because " + _some(changes)


def finished(stage: str, store: Path) -> Iterator[Record]:
    """Finished artifacts of the same stage, the newest first."""
    paths = sorted(store.glob(f"{stage}-*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in islice(paths, _MAX_RECORDS):
        with suppress(UserError):  # another format, or damaged: it can explain nothing
            if (record := read_record(path.parent)) is not None:
                yield record


def _changes(step: PlannedStep, record: Record, made_anew: set[str], fingerprints: Mapping[str, str]) -> list[str]:
    changes = [] if record.version == step.version else [f"stage version {record.version} -> {step.version}"]
    config = step.config.model_dump(mode="json")
    changes += [f"steps.{step.name}.config.{text}" for text in _config_changes(record.config, config)]
    if record.observed != step.observed:
        changes.append(f"the sources changed: {', '.join(_changed_sources(record.observed, step.observed))}")
    for slot, source in step.inputs.items():
        if slot not in record.inputs or record.inputs[slot].fingerprint != fingerprints[source]:
            what = "is made anew" if source in made_anew else "is another one"
            changes.append(f"its input {source} {what}")
    return changes


def _config_changes(before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> Iterator[str]:
    """`a.b changed from 1 to 2`, for each value of a config that is not as it was."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for key in [*new, *(key for key in old if key not in new)]:
        was, is_ = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if was == is_:
            continue
        if was is _ABSENT:
            yield f"{key} is new: {_short(is_)}"
        elif is_ is _ABSENT:
            yield f"{key} is gone"
        else:
            yield f"{key} changed from {_short(was)} to {_short(is_)}"


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is no mapping, with its dotted key; of lists that hold mappings the items one by one."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{prefix}.{number}")
    else:
        yield prefix, value


def _changed_sources(before: JsonValue, now: JsonValue) -> list[str]:
    """Sources that changed, each with its files or packages that did: `words (words.jsonl)`."""
    old, new = _by_source(before), _by_source(now)
    changed = [name for name in [*new, *(name for name in old if name not in new)] if old.get(name) != new.get(name)]
    return [f"{name} ({_some(_differing(old.get(name), new.get(name)))})" for name in changed]


def _by_source(observed: JsonValue) -> dict[str, object]:
    return dict(observed) if isinstance(observed, dict) else {"all": observed}


def _differing(before: object, now: object) -> list[str]:
    """The innermost keys whose values differ."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return ["new" if before is None else "gone" if now is None else "another"]
    keys = [key for key in [*now, *(key for key in before if key not in now)] if before.get(key) != now.get(key)]
    inner = [(key, before.get(key), now.get(key)) for key in keys]
    return [
        name
        for key, old, new in inner
        for name in (_differing(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else [str(key)])
    ]


def _some(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED] + ([f"{rest:,} more"] if rest > 0 else []))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
