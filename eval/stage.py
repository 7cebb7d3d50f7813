"""The stage that scores a trained model on held-out documents. It imports nothing heavy: the workers do."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.base import Artifact, UserError
from configs.evaluation import EvaluateConfig
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import find_mask, read_held_out
from data_prep.sources.document import Document
from eval.manifests import Accuracy, BitsPerByte, MultipleChoice, Scores, bits_per_byte
from eval.word_order import Question, make_questions
from eval.workers import Texts, WorkerPaths, score_questions, score_texts
from training.checkpoint.choice import choose_weights
from training.manifests import TrainedModel

TEXTS_PER_ITEM = 400
QUESTIONS = "word_order.jsonl"
SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class _ScoringItem:
    """One item of work: texts or questions to score, and the file that keeps the answer once it is there."""

    paths: WorkerPaths
    work: Texts | tuple[Question, ...]
    done: Path


def check_lm_eval(config: EvaluateConfig) -> None:
    """Raise UserError if the config needs lm-eval and it is not installed."""
    if config.multiple_choice and find_spec("lm_eval") is None:
        raise UserError(
            "the word-order task (multiple_choice) is scored by lm-eval, which is not installed here; "
            "pip install 'concord-train[eval]', or set multiple_choice: null"
        )


def check_held_out(corpora: Sequence[CleanCorpus]) -> None:
    """Raise UserError if no corpus has held-out documents to score on."""
    if not any(corpus.held_out for corpus in corpora):
        raise UserError("no document is held out, so there is nothing to evaluate on; raise held_out.share or add text")


def evaluate(
    config: EvaluateConfig,
    *,
    model: Artifact[TrainedModel],
    tokenizer: Artifact[TrainedTokenizer],
    corpus: tuple[Artifact[CleanCorpus], ...],
    mask: tuple[Artifact[Mask], ...] = (),
    out: Path,
    executor: Executor,
) -> Scores:
    """Score the model: bits per byte by language, and the word-order task if the config has one.

    What the corpora hold out is scored, without what the masks leave out. Raises UserError if no document is held out.
    """
    check_held_out([one.manifest for one in corpus])
    held_out = chain.from_iterable(read_held_out(one, find_mask(one, mask)) for one in corpus)
    chosen = smallest_digests(held_out, config.documents_per_stream)
    questions = make_questions(chosen, config.multiple_choice) if config.multiple_choice else []
    paths = WorkerPaths(choose_weights(config, model), tokenizer.dir, tokenizer.manifest.boundary_id, out / QUESTIONS)
    work: list[Any] = [tuple(questions)] if questions else []
    texts = [document.text for document in chosen]
    work += [Texts(tuple(texts[i : i + TEXTS_PER_ITEM])) for i in range(0, len(texts), TEXTS_PER_ITEM)]
    items = [_ScoringItem(paths, part, out / "parts" / f"{i:05d}.json") for i, part in enumerate(work)]
    answers = list(executor.map(_score, items, label="evaluating", on_device=True))
    answered = answers.pop(0) if questions else {"right": []}
    asked = [pair for pair in zip(questions, answered["right"], strict=True) if pair[1] is not None]
    nats = [value for answer in answers for value in answer["nats"]]
    _write_samples(out / SAMPLES, chosen, nats, asked)
    shutil.rmtree(out / "parts")
    shutil.rmtree(paths.questions.with_suffix(".cache"), ignore_errors=True)  # lm-eval's copy of the questions
    return Scores(
        step=paths.weights.step,
        bits_per_byte=_average_bits_per_byte(chosen, nats, by=lambda document: document.language),
        bits_per_byte_by_stream=_average_bits_per_byte(
            chosen, nats, by=lambda document: f"{document.source}/{document.language}"
        ),
        multiple_choice=_count_right_answers(asked, len(questions) - len(asked), answered, config) if asked else None,
    )


def _score(item: _ScoringItem) -> dict[str, Any]:
    """Score the item, or return the answer that was kept before a restart."""
    if not item.done.exists():
        work = item.work
        score = score_texts(item.paths, work) if isinstance(work, Texts) else score_questions(item.paths, work)
        write_text(item.done, json.dumps(score))
    answer: dict[str, Any] = json.loads(item.done.read_text(encoding="utf-8"))
    return answer


def _average_bits_per_byte(
    documents: list[Document], nats: list[float], *, by: Callable[[Document], str]
) -> dict[str, BitsPerByte]:
    totals: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for document, value in zip(documents, nats, strict=True):
        total = totals[by(document)]
        total[0] += 1
        total[1] += len(document.text.encode())
        total[2] += value
    return {
        name: BitsPerByte(num_documents=int(n), num_bytes=int(size), bits_per_byte=bits_per_byte(total, int(size)))
        for name, (n, size, total) in sorted(totals.items())
    }


def _count_right_answers(
    asked: list[tuple[Question, bool]], num_left_out: int, answered: dict[str, Any], config: EvaluateConfig
) -> MultipleChoice:
    by_language: defaultdict[str, list[bool]] = defaultdict(list)
    for question, right in asked:
        by_language[question.language].append(right)
    assert config.multiple_choice is not None
    return MultipleChoice(
        chance=1 / config.multiple_choice.num_choices,
        total=Accuracy(num_questions=len(asked), num_right=sum(right for _, right in asked)),
        by_language={
            language: Accuracy(num_questions=len(rights), num_right=sum(rights))
            for language, rights in sorted(by_language.items())
        },
        num_left_out=num_left_out,
        lm_eval_version=answered["lm_eval_version"],
    )


def _write_samples(
    path: Path, documents: list[Document], nats: list[float], asked: list[tuple[Question, bool]]
) -> None:
    """Write every single answer, so that anybody can compute other statistics."""
    rows: list[dict[str, Any]] = []
    for d, n in zip(documents, nats, strict=True):
        size = len(d.text.encode())
        where = {"document": d.id, "source": d.source, "language": d.language}
        rows.append({"task": "bits_per_byte", **where, "num_bytes": size, "nats": n})
    for q, r in asked:
        row = {"task": "word_order", "document": q.document, "language": q.language, "answer": q.answer, "right": r}
        rows.append(row)
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
