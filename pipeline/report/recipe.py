"""The recipe that makes what a page is about, written from the records of the artifacts."""

import re
from collections.abc import Mapping, Sequence

from pydantic import JsonValue, TypeAdapter, ValidationError

from cluster.host.redact import redact
from configs.load import dump_yaml
from configs.run import Step
from pipeline.store.artifact import Record

_STEP: TypeAdapter[Step] = TypeAdapter(Step)


def write_recipe(
    records: Mapping[str, Record],
    *,
    title: str,
    config: Mapping[str, JsonValue],
    inputs: Mapping[str, str | Sequence[str]],
) -> str:
    """Return the YAML of a recipe whose steps have the fingerprints of the records, and a report of them.

    `records` are by artifact name, inputs before what was made from them. `config` is the report's, `inputs` the
    artifacts that it was given, by slot. Step names are those that the artifacts were made under; where two artifacts
    of other recipes have one name, the second gets a number. An input whose record is gone is left out, and said.
    Secrets are taken out of the values: YAML may write one in a form that no search for it finds.
    """
    names = _name_steps(records)
    steps: dict[str, JsonValue] = {}
    missing = []
    for artifact, record in records.items():
        steps[names[artifact]] = _step(record.stage, record.config, _inputs(record, names))
        missing += [
            f"# step {names[artifact]!r} had {made_from.artifact} as {slot!r}, whose record is no longer in the store\n"
            for slot, made_from in record.all_inputs()
            if made_from.artifact not in names
        ]
    last = _unused("report", set(steps))
    own = {slot: names[one] if isinstance(one, str) else [names[name] for name in one] for slot, one in inputs.items()}
    steps[last] = _step("report", config, own)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", redact(title)).strip("-._")[:100] or "recipe"
    return "".join(missing) + dump_yaml({"name": name, "steps": without_secrets(steps)})


def _inputs(record: Record, names: Mapping[str, str]) -> dict[str, str | list[str]]:
    """Return the inputs of an artifact by the names of steps, without those whose record is gone."""
    inputs: dict[str, str | list[str]] = {}
    for slot, given in record.inputs.items():
        known = [names[made_from.artifact] for made_from in record.given(slot) if made_from.artifact in names]
        if not isinstance(given, tuple) and known:
            inputs[slot] = known[0]
        elif isinstance(given, tuple):
            inputs[slot] = known
    return inputs


def _name_steps(records: Mapping[str, Record]) -> dict[str, str]:
    """Return a name for the step of each artifact, no two the same."""
    names: dict[str, str] = {}
    for artifact, record in records.items():
        names[artifact] = _unused(record.step, set(names.values()))
    return names


def _unused(name: str, taken: set[str]) -> str:
    candidates = (f"{name[:90]}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(candidate for candidate in candidates if candidate not in taken)


def _step(stage: str, config: Mapping[str, JsonValue], inputs: Mapping[str, str | list[str]]) -> JsonValue:
    """Return a step as a recipe has it: without the settings that have their default, as far as that loses nothing."""
    given: dict[str, JsonValue] = {
        slot: names if isinstance(names, str) else [*names] for slot, names in inputs.items()
    }
    whole: dict[str, JsonValue] = {"stage": stage, "inputs": given, "config": dict(config)}
    try:
        step = _STEP.validate_python(whole)
    except ValidationError:  # made by another version, with other keys
        short = whole
    else:
        short = {"stage": stage} | step.model_dump(mode="json", exclude_defaults=True)
        if _STEP.validate_python(short) != step:
            short = whole
    return {key: value for key, value in short.items() if value not in ({}, None)}


def without_secrets(value: JsonValue | Mapping[str, JsonValue]) -> JsonValue:
    """Return the value with secrets taken out of its strings, but for keys."""
    match value:
        case str():
            return redact(value)
        case list():
            return [without_secrets(item) for item in value]
        case Mapping():
            return {key: without_secrets(item) for key, item in value.items()}
        case _:
            return value
