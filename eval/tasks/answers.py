"""What a task's questions were answered, in the one form that every adapter gives. Imports nothing heavy."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from operator import index
from typing import Any

from configs.base import UserError
from eval.tasks.aggregates import MEAN
from eval.tasks.task import Task


@dataclass(frozen=True)
class Answer:
    """One question of a task, as it was answered."""

    question: str
    """Digest of the question and of what the model was asked, by which answers of two models are paired."""

    value: float
    """Score; of a likelihood the nats."""

    weight: float
    """1, or of a likelihood the UTF-8 bytes of the text."""

    num_choices: int
    cluster: str
    document: str
    """What of the question identifies it for people: its id, if it has one."""


@dataclass(frozen=True)
class Answers:
    """A task, as a model answered it."""

    answers: tuple[Answer, ...]
    metric: str
    """The metric, of lm-eval's with its filter if it has one."""

    value: float | None
    """The score that lm-eval gives; None where it is the mean of the answers'."""

    version: str
    """lm-eval's version of the task."""

    kind: str
    digest: str
    """SHA-256 over the questions, in their order."""

    num_truncated: int
    """Requests that were longer than the model's context, whose beginning was cut off."""

    higher_is_better: bool
    aggregation: str = MEAN
    """What makes the score of the answers' (eval/tasks/aggregates.py)."""

    low: float | None = None
    """The 95% interval of a score that is neither the mean of the answers' nor bits per byte; None if it has none."""

    high: float | None = None
    lm_eval_version: str = ""
    """Empty of what lm-eval did not ask."""


def read_answers(task: Task, rows: Iterable[Mapping[str, Any]], *, where: str, limit: int | None) -> Answers:
    """Return a task's answers from rows of `question`, `value` and, if wanted, `num_choices` and `cluster`.

    `question` is a text or an id that no other question has; `value` a number, for right and wrong 1 and 0. Raises
    UserError, which begins with `where`, for a row that is none, or if there is none.
    """
    found: dict[str, Answer] = {}
    for number, row in enumerate(rows, 1):
        if limit is not None and number > limit:
            break
        one = _read_answer(row, f"{where}: answer {number}", has_chance=task.chance is not None)
        if one.question in found:
            raise UserError(f"{where}: answer {number}: the question is that of an earlier answer; give each an id")
        found[one.question] = one
    if not found:
        raise UserError(f"{where}: there is no answer; give a row for each question")
    return Answers(
        answers=tuple(found.values()),
        metric=task.metric or "score",
        value=None,
        version="",
        kind=task.kind or ("multiple_choice" if any(one.num_choices for one in found.values()) else "generation"),
        digest="",  # what is asked may hang on the model
        num_truncated=0,
        higher_is_better=task.higher_is_better,
    )


def cluster_of(value: object) -> str:
    """Return the digest of what a question shares with others; empty for None and for an empty text alone."""
    text = "" if value is None else str(value)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def _read_answer(row: Mapping[str, Any], where: str, *, has_chance: bool) -> Answer:
    if not isinstance(row, Mapping) or "question" not in row or "value" not in row:
        told = json.dumps(row, default=str, ensure_ascii=False)[:80]
        raise UserError(f"{where}: {told} has no `question` and `value`; give both")
    value = _number(row["value"])
    if value is None:
        told = repr(row["value"])[:80]
        raise UserError(f"{where}: value {told} is no finite number; give one, such as 1 for right and 0 for wrong")
    choices = _count(row.get("num_choices"))
    if choices is None:
        told = repr(row["num_choices"])
        raise UserError(f"{where}: num_choices {told} is no number of choices; give one, or leave it out")
    if (choices or has_chance) and not 0 <= value <= 1:
        raise UserError(
            f"{where}: value {value:g} is not between 0 and 1, as the score of a choice is; give such a one, or leave "
            "num_choices and chance out"
        )
    question = str(row["question"])
    return Answer(
        question=hashlib.sha256(question.encode(errors="surrogatepass")).hexdigest(),
        value=value,
        weight=1.0,
        num_choices=choices,
        cluster=cluster_of(row.get("cluster")),
        document=question[:80].encode(errors="backslashreplace").decode(),
    )


def _number(value: object) -> float | None:
    """Return a finite number; None for what is none."""
    try:
        found = float(value) if hasattr(value, "__float__") else None
    except (OverflowError, TypeError, ValueError, RuntimeError):  # an int of 400 digits, a tensor of two numbers
        return None
    return found if found is not None and isfinite(found) else None


def _count(value: object) -> int | None:
    """Return a number of choices, 0 if nothing is said, of any kind of integer; None for what is none."""
    try:
        found = 0 if value is None else index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return found if found >= 0 else None
