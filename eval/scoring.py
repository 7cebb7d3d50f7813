"""Has a model answer: likelihoods of texts, tasks, and beginnings that it goes on, in items of work."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.base import Artifact
from configs.evaluation import CONTINUATION, EvaluateConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.sources.document import Document
from eval.manifests import BitsPerByte, TaskScore
from eval.parallel import Sentences
from eval.rows import Answered, Prompt, bits_of_groups, rows_of, write_answers
from eval.tasks.answers import Answer, Answers
from eval.tasks.begun import mark_begun
from eval.tasks.continuation import NUM_CHOICES, make_questions
from eval.tasks.task import Task
from eval.workers import Prompts, TaskWork, Texts, Untrained, Weights, WorkerPaths, answer, continue_texts, score_texts

ITEM_BYTES = 500_000
"""UTF-8 bytes of the texts of one item of work, about."""

ITEM_TEXTS = 400
ITEM_PROMPTS = 64
CONTINUATIONS = 100
"""Questions of `continuation` in each language, if the recipe does not say."""

GENERATED_TOKENS = 64
MAX_PROMPT = 160
"""Characters of a prompt at most."""

MOST_DEATHS = 2
"""Processes that may end while they ask a task before it counts as failed, in all commands since it was answered."""

Work = Texts | Prompts | TaskWork


@dataclass(frozen=True)
class _Item:
    """One item of work, and the file that keeps the answer once it is there."""

    paths: WorkerPaths
    work: Work
    done: Path


@dataclass(frozen=True)
class Scoring:
    """What is scored, the same of each checkpoint."""

    config: EvaluateConfig
    documents: Sequence[Document]
    tasks: Sequence[Task]
    tokenizer: Artifact[TrainedTokenizer] | None
    """None where models bring their own."""

    digests: Path
    """Directory of the digests of tasks' questions, as they were when these were first loaded."""

    languages: tuple[str, ...] = ()
    """Those in which scores are wanted."""

    sentences: Sentences = field(default_factory=dict)
    receipts: frozenset[str] | None = None
    """Test sets that were looked for in all that the model read; None if a corpus has no mask."""

    on_task: Callable[[TaskScore], None] | None = None
    """Called with the row of each task once it is there."""

    def answer(self, weights: Weights, parts: Path, executor: Executor, *, writes: bool = False) -> Answered:
        """Have a model answer, by the workers of the executor; what was answered before is in the directory `parts`.

        With `writes` it goes on the beginnings of documents, too.
        """
        texts = list(_cut_texts([document.text for document in self.documents]))
        sentences = list(_cut_texts([one for own in self.sentences.values() for one in own]))
        prompts = list(_prompts(self.documents, self.config.generations_per_language)) if writes else []
        runs = [prompts[start : start + ITEM_PROMPTS] for start in range(0, len(prompts), ITEM_PROMPTS)]
        written: list[Work] = [Prompts(tuple(one.text for one in run), GENERATED_TOKENS) for run in runs]
        tasks: list[Work] = [_task_work(task, self.documents, self.config) for task in self.tasks]
        answers = self._ask(weights, [*texts, *sentences, *written, *tasks], parts, executor)
        scored = [next(answers) for _ in (*texts, *sentences)]
        values = iter([value for one in scored for value in one["nats"]])
        nats = [next(values) for _ in self.documents]
        by_language = {language: [next(values) for _ in own] for language, own in self.sentences.items()}
        generations = [text for _ in runs for text in next(answers)["texts"]]
        found = list[tuple[Task, Mapping[str, Any]]]()
        for task in self.tasks:
            found.append((task, self._checked(task, next(answers))))
            if self.on_task is not None:
                for row in rows_of(*found[-1], self.documents, self.receipts):
                    self.on_task(row)
        told = [one["precision"] for one in (*scored, *(own for _, own in found)) if "precision" in one]
        precision = ", ".join(sorted(set(told)))
        return Answered(nats, by_language, found, list(zip(prompts, generations, strict=True)), precision)

    def ask_untrained(
        self, answered: Answered, parts: Path, executor: Executor, *, tokenizer: Path | None = None
    ) -> tuple[TaskScore, ...]:
        """Return what a small untrained network scores in the tasks of choices that a model answered.

        `tokenizer` is the directory of that model, if it is no training's. `parts` must be other than the model's.
        """
        choices = [
            task
            for task, found in answered.tasks
            if found.get("kind") == "multiple_choice" and "failure" not in found and task.adapter == "lm_eval"
        ]
        work = [_task_work(task, self.documents, self.config) for task in choices]
        answers = self._ask(Untrained(tokenizer), work, parts, executor)
        found = zip(choices, answers, strict=True)
        return tuple(row for task, own in found for row in rows_of(task, own, self.documents, None))

    def is_answered(self, weights: Weights, parts: Path) -> bool:
        """Return whether a model answered all before, so that it need not be there any more."""
        work: list[Work] = [_task_work(task, self.documents, self.config) for task in self.tasks]
        work += _cut_texts([document.text for document in self.documents])
        work += _cut_texts([one for own in self.sentences.values() for one in own])
        kept = (_kept(self._item(weights, one, parts)) for one in work)
        return all(one is not None and "failure" not in one for one in kept)

    def bits(self, answered: Answered, by: Callable[[Document], list[str]]) -> dict[str, BitsPerByte]:
        """Return the bits per byte of each group that documents are in."""
        return bits_of_groups(self.documents, answered.nats, by=by)

    def task_scores(self, answered: Answered, *, is_ours: bool = True) -> tuple[TaskScore, ...]:
        """Return the rows of all tasks; of what other models read nothing is known."""
        receipts = self.receipts if is_ours else None
        return tuple(row for task, own in answered.tasks for row in rows_of(task, own, self.documents, receipts))

    def write_answers(self, directory: Path, answered: Answered) -> None:
        """Write every single answer."""
        write_answers(directory, self.documents, self.sentences, answered)

    def _ask(
        self, weights: Weights, work: Sequence[Work], parts: Path, executor: Executor
    ) -> Iterator[Mapping[str, Any]]:
        items = [self._item(weights, one, parts) for one in work]
        for item in items:
            _forget_failure(item)
        if isinstance(weights, Untrained):
            label = "what an untrained network answers"
        else:
            label = f"evaluating {weights.name if isinstance(weights, Path) else f'step {weights.step:,}'}"
        return iter(executor.map(_do, items, label=label, on_device=True))

    def _item(self, weights: Weights, work: Work, parts: Path) -> _Item:
        own = None if isinstance(weights, Path) else self.tokenizer
        is_offline = all(task.is_local for task in self.tasks)
        paths = WorkerPaths(weights, own, is_offline=is_offline, identity=parts.name)
        digest = hashlib.sha256(repr(work).encode()).hexdigest()[:16]
        name = work.task.name if isinstance(work, TaskWork) else type(work).__name__.lower()
        return _Item(paths, work, parts / f"{name}-{digest}.json")

    def _checked(self, task: Task, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a suite's task as it was answered, or as failed if its questions are others than at the first load."""
        digest = found.get("digest", "")
        if not task.suite or not digest:
            return found
        limit = self.config.questions_per_task
        name = "-".join([task.suite, task.name, task.version, found["version"] or "0", str(limit or "all")])
        path = self.digests / f"{name.replace('/', '_')}.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, digest)
        if (known := path.read_text(encoding="utf-8").strip()) == digest:
            return found
        why = (
            f"its questions have the digest {digest[:12]}, and {known[:12]} when they were first loaded ({path}): the "
            "data have changed; give the suite's task a `revision`, or another `version` if that is meant"
        )
        return {key: value for key, value in found.items() if key != "answers"} | {"failure": why, "value": None}


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


def _prompts(documents: Iterable[Document], per_language: int) -> Iterator[Prompt]:
    """Yield the beginnings of the first documents of each language: half a document at most, and whole words."""
    taken: Counter[str] = Counter()
    for document in documents:
        if taken[document.language] < per_language:
            head = document.text[: min(MAX_PROMPT, len(document.text) // 2)]
            cut = head[: place if (place := head.rfind(" ")) > len(head) // 2 else len(head)]
            if cut.strip():
                taken[document.language] += 1
                yield Prompt(document, cut)


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
    return replace(task, overrides=tuple(settings.items()), cluster="group")


def _do(item: _Item) -> dict[str, Any]:
    """Do an item of work, or return the answer that was kept before."""
    if (kept := _kept(item)) is not None:
        return kept
    work = item.work
    if isinstance(work, TaskWork):
        found = _unless_fatal(item, work)
    elif isinstance(work, Prompts):
        found = continue_texts(item.paths, work)
    else:
        found = score_texts(item.paths, work)
    write_text(item.done, json.dumps(found))
    return found


def _kept(item: _Item) -> dict[str, Any] | None:
    """Return the answer that was kept; None if there is none, or it was damaged."""
    try:
        found = json.loads(item.done.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and _is_whole(found, item.work) else None


def _is_whole(found: Mapping[str, Any], work: Work) -> bool:
    """Return whether an answer to some work has all that it should have."""
    if not isinstance(work, TaskWork):
        given = found.get("texts" if isinstance(work, Prompts) else "nats")
        return isinstance(given, list) and len(given) == len(work.texts)
    if "failure" in found:
        return isinstance(found["failure"], str)
    answers = found.get("answers")
    names = {one.name for one in fields(Answer)}
    is_read = isinstance(answers, list) and all(isinstance(one, dict) and names <= one.keys() for one in answers)
    return bool(answers) and is_read and {one.name for one in fields(Answers)} <= found.keys()


def _unless_fatal(item: _Item, work: TaskWork) -> dict[str, Any]:
    """Return a task's answers, or a failure if processes of this and earlier commands died of it.

    Such a death, as of want of memory, is no exception that could be caught. A file beside the answer, which is locked
    as long as it is asked, tells of each; the next command tries again, or the executor.
    """
    with mark_begun(item.done) as deaths:
        if deaths >= MOST_DEATHS:
            return {"failure": f"its process died {deaths} times while it was asked, perhaps of want of memory"}
        if deaths:
            told = f"{work.task.name}: a process died while it was asked, perhaps of want of memory; it is asked again"
            print(told, file=sys.stderr)
        return _answered(item.paths, work)


def _forget_failure(item: _Item) -> None:
    """Delete the answer of a task that failed in an earlier run, so that it is asked again."""
    if "failure" in (_kept(item) or {}):
        item.done.unlink(missing_ok=True)


def _answered(paths: WorkerPaths, work: TaskWork) -> dict[str, Any]:
    if work.rows is not None and not work.rows:
        why = f"it takes {NUM_CHOICES} held-out documents of one language that are long enough, and as many questions"
        return {"failure": why}
    return answer(paths, work)
