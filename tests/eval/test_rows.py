"""Rows of scores: questions that share a passage, and those that are alone."""

from typing import Any

import pytest

from eval.rows import rows_of
from eval.statistics import accuracy
from eval.tasks.task import Task

TASK = Task("quiz", "quiz", "quiz", None, "sw", "multiple_choice")


def answers(values: list[float], clusters: list[str]) -> dict[str, Any]:
    rows = [
        {"value": value, "weight": 1, "cluster": cluster, "num_choices": 2}
        for value, cluster in zip(values, clusters, strict=True)
    ]
    return {"answers": rows, "metric": "acc", "version": "1"}


def test_questions_without_a_passage_are_alone_also_beside_some_that_share_one() -> None:
    values = [1.0, 0.0] * 10
    (row,) = rows_of(TASK, answers(values, ["a", "a"] + [""] * 18), (), None)
    wanted = accuracy(values, ["a", "a", *(str(number) for number in range(18))])
    assert (row.low, row.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    (alone,) = rows_of(TASK, answers(values, [""] * 20), (), None)
    assert (alone.low, alone.high) == (accuracy(values).low, accuracy(values).high)
