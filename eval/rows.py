"""What a model's answers come to: scores with their intervals, and the files of every single answer."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log
from pathlib import Path
from typing import Any

from cluster.host.files import write_text
from configs.evaluation import CONTINUATION
from data_prep.sources.document import Document
from eval.manifests import BitsPerByte, BitsPerSentence, TaskScore
from eval.statistics import Interval, accuracy, bits_per_byte, detectable_difference
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
    values = [float(one["value"]) for one in answers]
    weights = [int(one["weight"]) for one in answers]
    of = [one["cluster"] or f"alone {number}" for number, one in enumerate(answers)]
    clusters = of if len(set(of)) < len(of) else None
    value, low, high, detectable = found.get("value"), None, None, None
    if answers and all(value == value for value in values):  # NaN: a score of the whole, such as BLEU
        is_likelihood = any(weight != 1 for weight in weights)
        interval = bits_per_byte(values, weights) if is_likelihood else accuracy(values, clusters)
        value = interval.value
        low, high = _bounds(interval, len(values))
        detectable = None if is_likelihood else detectable_difference(values, clusters)
    kind = found.get("kind", task.kind or "")
    chance = task.chance
    if chance is None and kind == "multiple_choice" and answers and all(one["num_choices"] for one in answers):
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
        value=value,
        low=low,
        high=high,
        chance=chance,
        detectable=detectable if detectable is not None and isfinite(detectable) else None,
        higher_is_better=found.get("higher_is_better", True),
        digest=found.get("digest", ""),
        licence=task.licence,
        source=task.source,
        is_decontaminated=is_decontaminated,
        failure=found.get("failure", ""),
    )


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
