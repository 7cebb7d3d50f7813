from typing import Any

import pytest

from pipeline.report.results import wilson
from pipeline.report.sections import settings_rows, split


def test_wilson_matches_a_published_example_and_stays_within_bounds():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(num_right=81, num_questions=263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(num_right=0, num_questions=20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(num_right=2, num_questions=2)[1] == 1.0
    assert wilson(num_right=0, num_questions=0) == (0.0, 1.0)


def test_settings_are_named_as_the_command_line_names_them():
    settings: dict[str, Any] = {"a": {"b": {"c": 1}}, "d": "x", "e": None, "f": [1, "y"], "g": True, "h": {}}
    assert settings_rows(settings) == [("a.b.c", "1"), ("d", "x"), ("f", '[1, "y"]'), ("g", "true")]


def test_split_makes_up_to_three_columns_in_order_and_none_of_a_few_rows():
    assert [len(run) for run in split(range(60))] == [20, 20, 20]
    assert [len(run) for run in split(range(61))] == [21, 21, 19]
    assert [list(run) for run in split(range(4))] == [[0, 1, 2, 3]]
    assert split([]) == []
