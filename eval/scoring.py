"""What is scored of a model, and what its answers come to."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.evaluation import CONTINUATION, EvaluateConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.sources.document import Document
from eval.manifests import BitsPerByte, TaskScore
from eval.statistics import accuracy, bits_per_byte, detectable_difference
from eval.tasks.continuation import NUM_CHOICES, make_questions
from eval.tasks.suites import Task
from eval.workers import TaskWork, Texts, WorkerPaths, answer, score_texts
from training.checkpoint.choice import ChosenWeights

ITEM_BYTES = 500_000
"""UTF-8 bytes of the texts of one item of work, about."""

ITEM_TEXTS = 400
CONTINUATIONS = 100
"""Questions of `continuation` in each language, if the recipe does not say."""


@dataclass(frozen=True)
class _Item:
    """One item of work, and the file that keeps the answer once it is there."""

    paths: WorkerPaths
    work: Texts | TaskWork
    done: Path


@dataclass(frozen=True)
class Answered:
    """What a model answered: the nats of each document, and each task with its answers."""

    nats: Sequence[float]
    tasks: Sequence[tuple[Task, Mapping[str, Any]]]
    precision: str


@dataclass(frozen=True)
class Scoring:
    """What is scored, the same of each checkpoint."""

    config: EvaluateConfig
    documents: Sequence[Document]
    tasks: Sequence[Task]
    tokenizer: Path
    manifest: TrainedTokenizer
    receipts: frozenset[str] | None
    """Test sets that were looked for in all that the model read; None if a corpus has no mask."""

    def answer(self, weights: ChosenWeights | Path, parts: Path, executor: Executor) -> Answered:
        """Have a model answer, by the workers of the executor; what was answered before is in the directory `parts`."""
        paths = WorkerPaths(
            weights,
            self.tokenizer,
            self.manifest.boundary_id,
            self.manifest.eos_id,
            is_offline=all(task.is_local for task in self.tasks),
        )
        texts = list(_cut_texts([document.text for document in self.documents]))
        work: list[Texts | TaskWork] = [*texts, *(_task_work(task, self.documents, self.config) for task in self.tasks)]
        items = [_Item(paths, part, parts / f"{number:05d}.json") for number, part in enumerate(work)]
        label = f"evaluating {weights.name if isinstance(weights, Path) else f'step {weights.step:,}'}"
        answers = list(executor.map(_score, items, label=label, on_device=True))
        nats = [value for found in answers[: len(texts)] for value in found["nats"]]
        tasks = list(zip(self.tasks, answers[len(texts) :], strict=True))
        return Answered(nats, tasks, answers[0]["precision"])

    def bits(self, answered: Answered, by: Callable[[Document], list[str]]) -> dict[str, BitsPerByte]:
        """Return the bits per byte of each group that documents are in."""
        return _bits(self.documents, answered.nats, by=by)

    def task_scores(self, answered: Answered, *, is_ours: bool = True) -> tuple[TaskScore, ...]:
        """Return the rows of all tasks; of what other models read nothing is known."""
        found, receipts = answered.tasks, self.receipts if is_ours else None
        return tuple(row for task, own in found for row in _rows_of(task, own, self.documents, receipts))

    def write_answers(self, directory: Path, answered: Answered) -> None:
        """Write every single answer, so that anybody can compute other statistics, and compare two models."""
        _write_samples(directory, self.documents, answered.nats, answered.tasks)


def _cut_texts(texts: Sequence[str]) -> Iterator[Texts]:
    """Yield texts in items of work of about one size."""
    batch, size = list[str](), 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= ITEM_BYTES or len(batch) == ITEM_TEXTS:
            yield Texts(tuple(batch))
            batch, size = [], 0
    if batch:
        yield Texts(tuple(batch))


def _task_work(task: Task, documents: Iterable[Document], config: EvaluateConfig) -> TaskWork:
    if task.name != CONTINUATION:
        return TaskWork(task, None, config.questions_per_task)
    questions = make_questions(documents, per_language=config.questions_per_task or CONTINUATIONS)
    return TaskWork(_continuation(task), tuple(asdict(question) for question in questions), None)


def _continuation(task: Task) -> Task:
    """Return lm-eval's settings of the task that is made here."""
    settings = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc_bytes"}],
    }
    return Task(**{**vars(task), "overrides": tuple(settings.items()), "cluster": "group"})


def _score(item: _Item) -> dict[str, Any]:
    """Do an item of work, or return the answer that was kept before a restart."""
    if not item.done.exists():
        work = item.work
        found = score_texts(item.paths, work) if isinstance(work, Texts) else _answered(item.paths, work)
        write_text(item.done, json.dumps(found))
    done: dict[str, Any] = json.loads(item.done.read_text(encoding="utf-8"))
    return done


def _answered(paths: WorkerPaths, work: TaskWork) -> dict[str, Any]:
    if work.rows is not None and not work.rows:
        why = f"it takes {NUM_CHOICES} held-out documents of one language that are long enough, and as many questions"
        return {"failure": why, "lm_eval_version": ""}
    return answer(paths, work)


def _bits(
    documents: Sequence[Document], nats: Sequence[float], *, by: Callable[[Document], list[str]]
) -> dict[str, BitsPerByte]:
    groups: defaultdict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))
    for document, value in zip(documents, nats, strict=True):
        for name in by(document):
            groups[name][0].append(value)
            groups[name][1].append(len(document.text.encode()))
    found = {}
    for name, (own, sizes) in sorted(groups.items()):
        interval = bits_per_byte(own, sizes)
        several = len(own) > 1
        found[name] = BitsPerByte(
            num_documents=len(own),
            num_bytes=sum(sizes),
            bits_per_byte=interval.value,
            low=interval.low if several else None,
            high=interval.high if several else None,
        )
    return found


def _rows_of(
    task: Task, found: Mapping[str, Any], documents: Sequence[Document], receipts: Collection[str] | None
) -> Iterator[TaskScore]:
    """Yield the row of a task; of what was made of the corpora, one for each language."""
    if task.name != CONTINUATION or "failure" in found:
        yield _row(task, found, found.get("answers", []), is_decontaminated=task.name in (receipts or ()))
        return
    languages = {document.id: document.language for document in documents}
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in found["answers"]:
        groups[languages[one["document"]]].append(one)
    for language, own in sorted(groups.items()):
        named = Task(**{**vars(task), "language": language})
        # held-out documents, whose near copies masks leave out
        yield _row(named, found, own, is_decontaminated=receipts is not None)


def _row(
    task: Task, found: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], *, is_decontaminated: bool
) -> TaskScore:
    values = [float(one["value"]) for one in answers]
    weights = [int(one["weight"]) for one in answers]
    clusters = [one["cluster"] for one in answers]
    value, low, high, detectable = found.get("value"), None, None, None
    if answers and all(value == value for value in values):  # NaN: a score of the whole, such as BLEU
        is_likelihood = any(weight != 1 for weight in weights)
        interval = (
            bits_per_byte(values, weights) if is_likelihood else accuracy(values, clusters if any(clusters) else None)
        )
        value = interval.value
        low, high = (interval.low, interval.high) if len(values) > 1 else (None, None)
        detectable = None if is_likelihood else detectable_difference(values, clusters if any(clusters) else None)
    kind = found.get("kind", task.kind or "")
    chance = task.chance
    if chance is None and kind == "multiple_choice" and answers:
        chance = sum(1 / one["num_choices"] for one in answers) / len(answers)
    return TaskScore(
        task=task.name,
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


def _write_samples(
    directory: Path, documents: Sequence[Document], nats: Sequence[float], scored: Sequence[tuple[Task, Any]]
) -> None:
    rows = [
        {"document": d.id, "source": d.source, "language": d.language, "num_bytes": len(d.text.encode()), "nats": value}
        | {"digest": hashlib.sha256(d.text.encode()).hexdigest()[:32]}
        for d, value in zip(documents, nats, strict=True)
    ]
    _write_rows(directory / "bits_per_byte.jsonl", rows)
    languages = {document.id: document.language for document in documents}
    for task, found in scored:
        is_made = task.name == CONTINUATION
        rows = [
            {
                **one,
                "language": languages[one["document"]] if is_made else task.language,
                "higher_is_better": found["higher_is_better"],
            }
            for one in found.get("answers", [])
        ]
        _write_rows(directory / f"{task.name}.jsonl", rows)


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
