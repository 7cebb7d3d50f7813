"""Compares two models on the documents and questions that both were scored on, language by language.

Answers are paired by the digests of what was asked. A difference is called one where its p-value, corrected for all
languages of the measure (Holm), is below 5%; else what could have been seen is told. What cannot be compared is told.
Errors of the mean over languages are clustered by questions, which languages may share.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan, log
from pathlib import Path
from typing import Literal, NamedTuple

from configs.base import UserError
from configs.data.languages import UNDETERMINED
from eval.statistics import (
    Comparison,
    Interval,
    compare_answers,
    compare_bits_per_byte,
    compare_clusters,
    detectable,
    holm,
    mean_difference,
)
from eval.tasks.aggregates import BITS_PER_BYTE as BITS_OF_TEXT
from eval.tasks.aggregates import MEAN, WHOLE
from eval.tasks.samples import Answer, Key, list_samples, read_samples, value_of
from eval.tasks.task import BITS_PER_BYTE, BITS_PER_SENTENCE

SIGNIFICANT = 0.05
WHOLE_ALONE = "only the whole has a score"
ONE_ALONE = "one document, question or passage alone is in both, which says nothing of others"

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Row:
    """What the second model does differently in one measure and language."""

    measure: str
    """`bits_per_byte`, or the family of tasks, one for each language."""

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
    detectable: float | None
    """The least difference that would have been found, with a power of 80%; infinite with so few pairs that none is.

    None where differences do not vary, as where there is none at all: so nothing is known of what they could be.
    """

    @property
    def is_same(self) -> bool:
        """Whether no pair differs."""
        return self.difference.value == self.difference.low == self.difference.high == 0


@dataclass(frozen=True)
class Total:
    """A measure over all languages, each with the same weight."""

    measure: str
    num_languages: int
    difference: Interval
    worst: str | None
    """The language that loses most, or gains least; None where no language differs."""


class Uncompared(NamedTuple):
    """A measure and language of which the models are not compared."""

    measure: str
    language: str
    reason: str


@dataclass
class _Pairs:
    """What two models answered of a measure in one language."""

    pairs: list[tuple[Answer, Answer]] = field(default_factory=list)
    num_unpaired: int = 0


def compare(first: Path, second: Path) -> tuple[list[Row], list[Total], list[Uncompared]]:
    """Compare the artifacts of two `evaluate` steps. Raises UserError if they have no answer in common."""
    families: defaultdict[str, defaultdict[str, _Pairs]] = defaultdict(lambda: defaultdict(_Pairs))
    uncompared = list[Uncompared]()
    names = list_samples(first) | list_samples(second)
    for name in sorted(names, key=lambda one: (one != BITS_PER_BYTE, one)):
        before, after = read_samples(first, name), read_samples(second, name)
        family = _family(name, before, after)
        if reason := _reason(before, after):
            uncompared += [Uncompared(family, language, reason) for language in _languages(before, after)]
        else:
            uncompared += _pair(family, before or {}, after or {}, families[family])
    rows, totals = [], []
    for measure, languages in families.items():
        known = {language: one for language, one in sorted(languages.items()) if one.pairs}
        tested = {language: one for language, one in known.items() if _num_units(one.pairs) > 1}
        uncompared += [Uncompared(measure, language, ONE_ALONE) for language in known if language not in tested]
        own = list(_rows_of(measure, tested))
        rows += own
        totals += [_total(measure, own, tested)] if own else []
    if not rows:
        told = "".join(f"; {one.measure} {one.language}: {one.reason}" for one in uncompared[:3])
        raise UserError(
            f"{first} and {second} have no document and no question in common{told}; compare scores on the same "
            "held-out text, or by the same tasks"
        )
    return rows, totals, uncompared


def _family(name: str, *answers: Mapping[Key, Answer] | None) -> str:
    """Return the measure that a file is of: the family of its task, whose other files have other languages."""
    row = next((row for own in reversed(answers) for row in (own or {}).values()), {})
    return str(row.get("family") or name)


def _languages(*answers: Mapping[Key, Answer] | None) -> list[str]:
    return sorted({row["language"] for own in answers for row in (own or {}).values()}) or [UNDETERMINED]


def _reason(first: Mapping[Key, Answer] | None, second: Mapping[Key, Answer] | None) -> str:
    """Return why a file's answers cannot be compared at all; empty if they can."""
    if first is None or second is None:
        return f"only the {'second' if first is None else 'first'} was asked"
    if not first or not second:
        return f"it failed in {'the first' if second else 'the second' if first else 'both'}"
    one, other = (next(iter(own.values())) for own in (first, second))
    for key in ("metric", "aggregation"):
        if one.get(key, "") != other.get(key, ""):
            return f"the {key} is {one.get(key, '')} in the first and {other.get(key, '')} in the second"
    aggregation = one.get("aggregation", MEAN)
    if aggregation in (MEAN, BITS_OF_TEXT) or any(isnan(value_of(row)) for row in (one, other)):
        return ""
    what = "another score" if aggregation == WHOLE else f"the {aggregation}"
    return f"{WHOLE_ALONE}: {what} of all questions, and no mean over them"


def _pair(
    family: str, first: Mapping[Key, Answer], second: Mapping[Key, Answer], languages: defaultdict[str, _Pairs]
) -> Iterator[Uncompared]:
    """Add the pairs of a file's answers to those of their languages, and yield the languages that have none."""
    scored, also = ({key: row for key, row in own.items() if isfinite(value_of(row))} for own in (first, second))
    paired = set[str]()
    for key, row in scored.items():
        if key in also:
            languages[row["language"]].pairs.append((row, also[key]))
            paired.add(row["language"])
    for key in scored.keys() ^ also.keys():
        languages[(scored.get(key) or also[key])["language"]].num_unpaired += 1
    for language in _languages(first, second):
        if language not in paired:
            own, others = (
                [row for row in answers.values() if row["language"] == language] for answers in (first, second)
            )
            yield Uncompared(family, language, _reason_of_language(own, others))


def _reason_of_language(first: Sequence[Answer], second: Sequence[Answer]) -> str:
    if not first or not second:
        return f"only the {'first' if first else 'second'} was asked"
    values = [value_of(row) for row in (*first, *second)]
    if any(map(isfinite, values)):
        return "no document and no question is in both"
    is_of_text = "nats" in first[0] or first[0].get("metric") == BITS_PER_SENTENCE
    return WHOLE_ALONE if all(map(isnan, values)) and not is_of_text else "no score is a finite number"


def _rows_of(measure: str, languages: Mapping[str, _Pairs]) -> Iterator[Row]:
    found = {language: _compare_pairs(own.pairs) for language, own in languages.items()}
    corrected = holm({language: one.p_value for language, one in found.items()})
    for language, one in found.items():
        sign = _sign(languages[language].pairs[0][1])
        is_one = corrected[language] < SIGNIFICANT and not one.difference.low <= 0 <= one.difference.high
        yield Row(
            measure=measure,
            language=language,
            num_paired=len(languages[language].pairs),
            num_unpaired=languages[language].num_unpaired,
            difference=one.difference,
            p_value=one.p_value,
            corrected=corrected[language],
            verdict="cannot tell" if not is_one else "better" if sign * one.difference.value > 0 else "worse",
            detectable=_detectable(one, len(found)),
            higher_is_better=sign > 0,
        )


def _detectable(found: Comparison, num_tests: int) -> float | None:
    """Return the least difference that would have been found, as `Row` has it."""
    if not found.error and not found.difference.value:
        return None
    least = 2.0 ** (1 - found.num_pairs)  # p-value of a test of ranks or signs, however large the difference
    if num_tests * least >= SIGNIFICANT:
        return float("inf")
    return detectable(found.error, degrees=found.num_pairs - 1, num_tests=num_tests) if found.error else None


def _num_units(pairs: Sequence[tuple[Answer, Answer]]) -> int:
    """Return of how many documents, or passages of questions, pairs are."""
    return len(set(_clusters([row for row, _ in pairs])))


def _clusters(rows: Sequence[Answer]) -> list[str]:
    return [str(row.get("cluster") or f"alone {number}") for number, row in enumerate(rows)]


def _compare_pairs(pairs: Sequence[tuple[Answer, Answer]]) -> Comparison:
    before, after = ([value_of(one) for one in own] for own in zip(*pairs, strict=True))
    rows = [row for row, _ in pairs]
    sizes, clusters, is_likelihood = [_size(row) for row in rows], _clusters(rows), _is_bits(rows)
    if len(set(clusters)) < len(rows):
        unit = log(2) if is_likelihood else 1.0
        return compare_clusters([one / unit for one in before], [one / unit for one in after], clusters, sizes)
    return compare_bits_per_byte(before, after, sizes) if is_likelihood else compare_answers(before, after)


def _is_bits(rows: Sequence[Answer]) -> bool:
    """Return whether values are nats of so many bytes."""
    return any("nats" in row or row.get("aggregation") == BITS_OF_TEXT or row["weight"] != 1 for row in rows)


def _size(row: Answer) -> float:
    """Return the bytes that a likelihood is of; of an answer 1."""
    return float(row["num_bytes"] if "nats" in row else row["weight"])


def _sign(row: Answer) -> int:
    """Return 1 if a higher score is better, else -1."""
    return -1 if _is_bits([row]) or not row.get("higher_is_better", True) else 1


def _total(measure: str, rows: Sequence[Row], languages: Mapping[str, _Pairs]) -> Total:
    """Return the mean over the languages of the rows, in their order."""
    worst = min(rows, key=lambda row: row.difference.value if row.higher_is_better else -row.difference.value)
    is_any = any(row.difference.value for row in rows)
    parts = []
    units = _units_of({language: [row for row, _ in own.pairs] for language, own in languages.items()})
    for language, own in languages.items():
        unit = log(2) if _is_bits([before for before, _ in own.pairs]) else 1.0
        changes = [(value_of(after) - value_of(before)) / unit for before, after in own.pairs]
        parts.append((changes, [_size(before) for before, _ in own.pairs], units[language]))
    return Total(measure, len(rows), mean_difference(parts), worst.language if is_any else None)


def _units_of(languages: Mapping[str, Sequence[Answer]]) -> dict[str, list[str]]:
    """Return the unit of each answer: answers of a passage, or to one question in several languages, have the same.

    Questions of several languages are one if they have the same id, or the same place in files that have none.
    """
    leaders: dict[str, str] = {}

    def leader(name: str) -> str:
        while (above := leaders.setdefault(name, name)) != name:
            leaders[name] = leaders[above]
            name = above
        return name

    names: dict[str, list[str]] = {}
    for language, rows in languages.items():
        names[language] = []
        for number, row in enumerate(rows):
            asked = str(row.get("document", f"{language}/{number}"))
            if row.get("metric") == BITS_PER_SENTENCE:
                asked = asked.removeprefix(f"{language}/")  # what remains is the number of the sentence
            names[language].append(f"asked {asked}")
            if cluster := str(row.get("cluster", "")):
                leaders[leader(f"asked {asked}")] = leader(f"shares {cluster}")
    return {language: [leader(name) for name in own] for language, own in names.items()}
