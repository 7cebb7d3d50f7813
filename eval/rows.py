"""What a model's answers come to: scores with their intervals, and the files of every single answer."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, log
from pathlib import Path
from typing import Any

import numpy as np

from cluster.host.files import write_text
from configs.evaluation import CONTINUATION
from data_prep.sources.document import Document
from eval.manifests import BitsPerByte, BitsPerSentence, TaskScore
from eval.statistics import Interval, accuracy, bits_per_byte, detectable_difference
from eval.tasks.aggregates import BITS_PER_BYTE as BITS_OF_TEXT
from eval.tasks.aggregates import MEAN
from eval.tasks.task import BITS_PER_BYTE, BITS_PER_SENTENCE, GENERATIONS, Task


@dataclass(frozen=True)
class Prompt:
    """The beginning of a held-out document."""

    document: Document
    text: str


@dataclass(frozen=True)
class Answered:
    """What a model answered."""

    nats: Sequence[float]
    """Negative log-likelihood of each document."""

    sentences: Mapping[str, Sequence[float]]
    """Language -> that of each parallel sentence."""

    tasks: Sequence[tuple[Task, Mapping[str, Any]]]
    generations: Sequence[tuple[Prompt, str]]
    precision: str


def bits_of_groups(
    documents: Sequence[Document], nats: Sequence[float], *, by: Callable[[Document], list[str]]
) -> dict[str, BitsPerByte]:
    """Return the bits per byte of each group that documents are in."""
    groups: defaultdict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))
    for document, value in zip(documents, nats, strict=True):
        for name in by(document):
            groups[name][0].append(value)
            groups[name][1].append(len(document.text.encode()))
    found = {}
    for name, (own, sizes) in sorted(groups.items()):
        interval = bits_per_byte(own, sizes)
        low, high = _bounds(interval, len(own))
        found[name] = BitsPerByte(
            num_documents=len(own), num_bytes=sum(sizes), bits_per_byte=interval.value, low=low, high=high
        )
    return found


def bits_of_sentences(nats: Mapping[str, Sequence[float]]) -> dict[str, BitsPerSentence]:
    """Return the bits per parallel sentence of each language."""
    found = {}
    for language, own in sorted(nats.items()):
        interval = bits_per_byte(own, [1] * len(own))  # each counts as one
        low, high = _bounds(interval, len(own))
        found[language] = BitsPerSentence(num_sentences=len(own), bits_per_sentence=interval.value, low=low, high=high)
    return found


def _bounds(interval: Interval, number: int) -> tuple[float | None, float | None]:
    return (interval.low, interval.high) if number > 1 else (None, None)


def rows_of(
    task: Task, found: Mapping[str, Any], documents: Sequence[Document], receipts: Collection[str] | None
) -> Iterator[TaskScore]:
    """Yield the row of a task; of what was made of the corpora, one for each language.

    `receipts` are the test sets that were looked for in what the model read, None if that is not known.
    """
    if task.name != CONTINUATION or "failure" in found:
        yield _row(task, found, found.get("answers", []), is_decontaminated=task.name in (receipts or ()))
        return
    languages = {document.id: document.language for document in documents}
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in found["answers"]:
        groups[languages[one["document"]]].append(one)
    for language, own in sorted(groups.items()):
        # held-out documents, whose near copies masks leave out
        yield _row(replace(task, language=language), found, own, is_decontaminated=receipts is not None)


def _row(
    task: Task, found: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], *, is_decontaminated: bool
) -> TaskScore:
    statistics = _statistics(found, answers)
    kind = found.get("kind", task.kind or "")
    chance = task.chance
    is_choice = kind == "multiple_choice" and found.get("aggregation") == MEAN
    if chance is None and is_choice and answers and all(one["num_choices"] for one in answers):
        chance = sum(1 / one["num_choices"] for one in answers) / len(answers)
    return TaskScore(
        task=task.name,
        family=task.family,
        language=task.language,
        suite=task.suite,
        kind=kind,
        formulation=task.formulation,
        metric=found.get("metric", task.metric or ""),
        version="/".join(filter(None, (task.version, found.get("version", "")))),
        num_questions=len(answers),
        num_truncated=found.get("num_truncated", 0),
        value=statistics.value,
        low=statistics.low,
        high=statistics.high,
        chance=chance,
        detectable=statistics.detectable,
        higher_is_better=found.get("higher_is_better", True),
        digest=found.get("digest", ""),
        licence=task.licence,
        source=task.source,
        is_decontaminated=is_decontaminated,
        failure=found.get("failure", ""),
    )


@dataclass(frozen=True)
class _Statistics:
    """A task's score in one language, with what is known of it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None


def _statistics(found: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> _Statistics:
    """Return the score of answers, which is lm-eval's if it gives one, with the interval of how it was made of them."""
    value, aggregation = found.get("value"), found.get("aggregation")
    scored = [one for one in answers if not isnan(one["value"])]
    if "failure" in found or not scored or aggregation not in (MEAN, BITS_OF_TEXT):
        return _Statistics(value, found.get("low"), found.get("high"))
    is_whole = len(answers) == len(found["answers"])  # of the rows of several languages each has its own mean
    values, weights = ([float(one[key]) for one in scored] for key in ("value", "weight"))
    of = [one["cluster"] or f"alone {number}" for number, one in enumerate(scored)]
    clusters = of if len(set(of)) < len(of) else None
    if aggregation == BITS_OF_TEXT:
        sums = np.unique(np.asarray(of), return_inverse=True)[1]  # by passage, where some share one
        nats, sizes = (np.bincount(sums, own).tolist() for own in (values, weights))
        interval, detectable = bits_per_byte(nats, sizes), None
    else:
        interval, detectable = accuracy(values, clusters), detectable_difference(values, clusters)
    low, high = _bounds(interval, len(set(of)))
    own = value if value is not None and is_whole else interval.value
    most = 1 if all(0 <= one <= 1 for one in values) else inf
    known = detectable if detectable is not None and 0 < detectable <= most else None  # 0: answers that do not vary
    return _Statistics(own, low, high, known)


def write_answers(
    directory: Path, documents: Sequence[Document], sentences: Mapping[str, Sequence[str]], answered: Answered
) -> None:
    """Write every single answer, so that anybody can compute other statistics, and compare two models.

    `sentences` are the texts of each language, whose likelihoods were answered.
    """
    if documents:
        _write(directory / f"{BITS_PER_BYTE}.jsonl", _document_rows(documents, answered.nats))
    if answered.sentences:
        _write(directory / f"{BITS_PER_SENTENCE}.jsonl", _sentence_rows(sentences, answered.sentences))
    if answered.generations:
        _write(directory / f"{GENERATIONS}.jsonl", _generation_rows(answered.generations))
    languages = {document.id: document.language for document in documents}
    for task, found in answered.tasks:
        is_made = task.name == CONTINUATION
        _write(
            directory / f"{task.name}.jsonl",
            (
                {
                    **one,
                    "language": languages[one["document"]] if is_made else task.language,
                    "family": task.family,
                    "metric": found["metric"],
                    "higher_is_better": found["higher_is_better"],
                    "aggregation": found["aggregation"],
                }
                for one in found.get("answers", [])
            ),
        )


def _document_rows(documents: Sequence[Document], nats: Sequence[float]) -> Iterator[Mapping[str, Any]]:
    for document, value in zip(documents, nats, strict=True):
        yield {
            "document": document.id,
            "source": document.source,
            "language": document.language,
            "num_bytes": len(document.text.encode()),
            "nats": value,
            "digest": hashlib.sha256(document.text.encode()).hexdigest()[:32],
        }


def _sentence_rows(
    sentences: Mapping[str, Sequence[str]], nats: Mapping[str, Sequence[float]]
) -> Iterator[Mapping[str, Any]]:
    for language, own in nats.items():
        for number, (text, value) in enumerate(zip(sentences[language], own, strict=True), 1):
            known = {
                "question": hashlib.sha256(f"{language}/{text}".encode()).hexdigest(),
                "document": f"{language}/{number}",
                "language": language,
                "higher_is_better": False,
            }
            yield known | {"value": value / log(2), "weight": 1.0, "cluster": "", "metric": BITS_PER_SENTENCE}


def _generation_rows(generations: Sequence[tuple[Prompt, str]]) -> Iterator[Mapping[str, Any]]:
    for prompt, text in generations:
        known = {"language": prompt.document.language, "source": prompt.document.source}
        known |= {"document": prompt.document.id, "prompt": prompt.text, "text": text}
        yield known | {"contains_text": True}


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
