"""Rows of scores: questions that share a passage, and those that are alone."""

from typing import Any

import numpy as np
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
    return {"answers": rows, "metric": "acc", "version": "1", "aggregation": "mean"}


def test_questions_without_a_passage_are_alone_also_beside_some_that_share_one() -> None:
    values = [1.0, 0.0] * 10
    (row,) = rows_of(TASK, answers(values, ["a", "a"] + [""] * 18), (), None)
    wanted = accuracy(values, ["a", "a", *(str(number) for number in range(18))])
    assert (row.low, row.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    (alone,) = rows_of(TASK, answers(values, [""] * 20), (), None)
    assert (alone.low, alone.high) == (accuracy(values).low, accuracy(values).high)


def test_the_score_is_lm_evals_to_the_last_digit_and_the_interval_that_of_how_it_was_made() -> None:
    values = [1.0, 0.0, 0.0] * 10
    exact = answers(values, [""] * 30) | {"value": 0.33333333333333337}
    (row,) = rows_of(TASK, exact, (), None)
    assert row.value == 0.33333333333333337 and row.low == accuracy(values).low and row.chance == 0.5
    median = answers(values, [""] * 30) | {"value": 0.0, "aggregation": "median", "low": 0.0, "high": 1.0}
    (row,) = rows_of(TASK, median | {"kind": "multiple_choice"}, (), None)
    assert (row.value, row.low, row.high, row.chance, row.detectable) == (0.0, 0.0, 1.0, None, None)


def test_what_does_not_vary_or_is_of_one_passage_says_nothing_of_other_models() -> None:
    (row,) = rows_of(TASK, answers([1.0] * 8, [""] * 8), (), None)
    assert row.detectable is None and row.low is not None and row.low < 0.8
    (row,) = rows_of(TASK, answers([1.0, 0.0] * 4, ["a"] * 8), (), None)
    assert (row.low, row.high, row.detectable) == (None, None, None)


def test_scores_that_are_missing_are_left_out_of_a_mean() -> None:
    values = [1.0, 0.0, 1.0, 1.0] * 5
    given = answers([*values, float("nan")], [""] * 21) | {"value": 0.75}
    (row,) = rows_of(TASK, given, (), None)
    assert (row.value, row.low, row.num_questions) == (0.75, accuracy(values).low, 21)


def test_bits_of_texts_that_share_a_passage_have_errors_by_passage() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    nats = np.repeat(generator.normal(100, 20, 20), 5)
    rows = [
        {"value": float(value), "weight": 80.0, "cluster": str(number // 5), "num_choices": 0}
        for number, value in enumerate(nats)
    ]
    found = {"answers": rows, "metric": "bits_per_byte", "version": "1", "aggregation": "bits_per_byte", "value": 1.8}
    (shared,) = rows_of(TASK, found, (), None)
    (alone,) = rows_of(TASK, found | {"answers": [row | {"cluster": ""} for row in rows]}, (), None)
    assert shared.value == alone.value == 1.8
    assert None not in (shared.low, shared.high, alone.low, alone.high)
    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)  # type: ignore[operator]
