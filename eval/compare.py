"""Compares two models on the documents and questions that both were scored on, language by language.

Answers are paired by the digests of what was asked. A difference is called one where its p-value, corrected for all
languages of the measure (Holm), is below 5%; else what could have been seen is told.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, Literal

from cluster.storage.errors import error_class
from configs.base import UserError
from eval.statistics import (
    NORMAL,
    Comparison,
    Interval,
    compare_answers,
    compare_bits_per_byte,
    detectable,
    holm,
    means_of_clusters,
)
from eval.tasks.task import BITS_PER_BYTE, GENERATIONS

SIGNIFICANT = 0.05
_FEWEST = 6
"""With fewer pairs no difference is one, however large: a rank test's least p-value is above 5%."""

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Row:
    """What the second model does differently in one measure and language."""

    measure: str
    """`bits_per_byte`, or the name of a task."""

    language: str
    num_paired: int
    num_unpaired: int
    """Documents or questions that only one of them has."""

    difference: Interval
    """Second less first: bits per byte, of which fewer are better, or the share of right answers."""

    p_value: float
    corrected: float
    """The p-value with Holm's correction over the languages of the measure."""

    verdict: Verdict
    higher_is_better: bool
    detectable: float
    """The least difference that would have been found, with a power of 80%; infinite with so few pairs that none is."""


@dataclass(frozen=True)
class Total:
    """A measure over all languages, each with the same weight."""

    measure: str
    num_languages: int
    difference: Interval
    worst: str
    """The language that loses most."""


def compare(first: Path, second: Path) -> tuple[list[Row], list[Total]]:
    """Compare the artifacts of two `evaluate` steps. Raises UserError if they have no answer in common."""
    rows, totals = [], []
    measures = [name for name in _measures(second) if name in _measures(first)]
    for measure in measures:
        own = list(_rows_of(measure, _read(first, measure), _read(second, measure)))
        rows += own
        totals += [_total(measure, own)] if own else []
    if not rows:
        raise UserError(
            f"{first} and {second} have no document and no question in common; compare scores on the same held-out "
            "text, or by the same tasks"
        )
    return rows, totals


def _measures(directory: Path) -> list[str]:
    """Return the measures that an artifact has answers of, bits per byte first."""
    names = sorted({path.stem for path in (directory / "samples").glob("*.jsonl")} - {GENERATIONS})
    if not names:
        raise UserError(f"{directory} has no answers (samples/*.jsonl); name the artifact of an `evaluate` step")
    return sorted(names, key=lambda name: name != BITS_PER_BYTE)


def _read(directory: Path, measure: str) -> dict[str, Mapping[str, Any]]:
    """Return the answers by what identifies them."""
    path = directory / "samples" / f"{measure}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if measure == BITS_PER_BYTE:
            return {str(row["digest"]): row for row in rows}
        return {str(row["question"]): row for row in rows if isfinite(row["value"])}  # BLEU is of the whole alone
    except (OSError, ValueError, KeyError) as error:
        raise error_class(error)(f"{path} cannot be read ({error}); evaluate again") from None


def _rows_of(
    measure: str, first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]
) -> Iterator[Row]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key in first:
        if key in second:
            groups[first[key]["language"]].append(key)
    unpaired: defaultdict[str, int] = defaultdict(int)
    for key in first.keys() ^ second.keys():
        unpaired[(first.get(key) or second[key])["language"]] += 1
    how: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Comparison]
    how = _compare_bits if measure == BITS_PER_BYTE else _compare_values
    found = {
        language: how([first[key] for key in keys], [second[key] for key in keys])
        for language, keys in sorted(groups.items())
    }
    corrected = holm({language: one.p_value for language, one in found.items()})
    sign = _sign(measure, second)
    for language, one in found.items():
        error = (one.difference.high - one.difference.low) / 2 / NORMAL.inv_cdf(0.975)
        enough = one.num_pairs >= _FEWEST
        is_one = corrected[language] < SIGNIFICANT and not one.difference.low <= 0 <= one.difference.high
        yield Row(
            measure=measure,
            language=language,
            num_paired=len(groups[language]),
            num_unpaired=unpaired[language],
            difference=one.difference,
            p_value=one.p_value,
            corrected=corrected[language],
            verdict="cannot tell" if not is_one else "better" if sign * one.difference.value > 0 else "worse",
            detectable=detectable(error, num_tests=len(found)) if enough else float("inf"),
            higher_is_better=sign > 0,
        )


def _compare_bits(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Comparison:
    sizes = [int(one["num_bytes"]) for one in first]
    return compare_bits_per_byte([one["nats"] for one in first], [one["nats"] for one in second], sizes)


def _compare_values(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Comparison:
    before, after = ([float(one["value"]) for one in own] for own in (first, second))
    if any(one["weight"] != 1 for one in first):
        return compare_bits_per_byte(before, after, [int(one["weight"]) for one in first])
    clusters = [str(one.get("cluster", "")) for one in first]
    if any(clusters):  # what shares a passage is one observation
        before, after = means_of_clusters(before, clusters), means_of_clusters(after, clusters)
    return compare_answers(before, after)


def _sign(measure: str, answers: Mapping[str, Mapping[str, Any]]) -> int:
    """Return 1 if a higher score is better, else -1."""
    row = next(iter(answers.values()), {})
    is_bits = measure == BITS_PER_BYTE or row.get("weight", 1) != 1
    return -1 if is_bits or not row.get("higher_is_better", True) else 1


def _total(measure: str, rows: Sequence[Row]) -> Total:
    value = sum(row.difference.value for row in rows) / len(rows)
    half = sqrt(sum(((row.difference.high - row.difference.low) / 2) ** 2 for row in rows)) / len(rows)
    sign = 1 if rows[0].higher_is_better else -1
    worst = min(rows, key=lambda row: sign * row.difference.value)
    return Total(measure, len(rows), Interval(value, value - half, value + half), worst.language)
