"""What differs between two starts of a run, and what it means for what is made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from pipeline.runs.records import StartRecord
from pipeline.store.lineage import shorten

Meaning = Literal["refuse", "ask", "tell"]
"""`refuse`: it would be another run. `ask`: it may change the mathematics. `tell`: it does not."""

_NUMERIC = ("torch", "deepspeed", "transformers", "numpy", "python", "tokenizers", "sentencepiece")
"""Packages whose version may change results. The others move files and processes."""

_SUMMATION = ("num_ranks", "min_ranks", "zero_stage", "micro_batch_size", "accelerator", "attention", "compile")
"""Settings of a pool that change the order of floating-point sums, or which kernels make them."""

_MAX_SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was at the last start."""

    what: str
    before: str
    after: str
    meaning: Meaning
    consequence: str
    """In words, whether the mathematics changes."""


def differences(before: StartRecord, after: StartRecord) -> list[Difference]:
    """Everything that differs: data and recipe by the artifacts' names, topology, code, versions."""
    return [*_artifacts(before, after), *_cluster(before, after), *_code(before, after), *_packages(before, after)]


def recipe_changes(submitted: JsonValue, now: JsonValue) -> list[Difference]:
    """Of the recipe's file since it was submitted. A run keeps to what was submitted."""
    note = "the run goes on with the recipe as it was submitted; for the new one submit it under another --id"
    return [Difference(f"recipe: {key}", old, new, "ask", note) for key, old, new in changed(submitted, now)]


def changed(before: JsonValue, after: JsonValue, at: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted keys whose values differ, with both values in short; `absent` stands for none."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            where = f"{at}.{key}" if at else key
            if key not in before or key not in after:
                yield where, _short(before.get(key, "absent")), _short(after.get(key, "absent"))
            else:
                yield from changed(before[key], after[key], where)
    elif before != after:
        yield at, _short(before), _short(after)


def _artifacts(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    note = "it would make something else: put the sources and the code back, or submit the recipe under another --id"
    for step in dict.fromkeys([*before.artifacts, *after.artifacts]):
        old, new = before.artifacts.get(step, "absent"), after.artifacts.get(step, "absent")
        if old != new:
            yield Difference(f"what step {step} makes", old, new, "refuse", note)


def _cluster(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    for key, old, new in changed(before.cluster, after.cluster):
        sums = key.startswith("pools.") and key.rpartition(".")[2] in _SUMMATION
        note = "the samples stay; sums are taken in another order, so losses agree to rounding" if sums else "no change"
        yield Difference(f"cluster: {key}", old, new, "tell", note)


def _code(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    if before.code != after.code:
        note = "the stages are of the same versions, which promises the same results, but the code differs"
        yield Difference("code", shorten(before.code), shorten(after.code), "ask", note)


def _packages(before: StartRecord, after: StartRecord) -> Iterator[Difference]:
    yield from _versions(before.packages, after.packages)


def _versions(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, "absent"), after.get(name, "absent")
        if old == new or name == "concord-train":
            continue
        numeric = name in _NUMERIC
        note = "it may round, or compute, differently" if numeric else "no change"
        yield Difference(f"version of {name}", old, new, "ask" if numeric else "tell", note)


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
