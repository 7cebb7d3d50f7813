from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.tables import settings_rows, split


def test_settings_are_named_as_the_command_line_names_them():
    settings: dict[str, Any] = {"a": {"b": {"c": 1}}, "d": "x", "e": None, "f": [1, "y"], "g": True, "h": {}}
    assert settings_rows(settings) == [("a.b.c", "1"), ("d", "x"), ("f", '[1, "y"]'), ("g", "true")]


def test_split_makes_up_to_three_equal_columns_in_order_and_one_of_a_few_rows():
    assert [len(run) for run in split(range(60))] == [20, 20, 20]
    assert [len(run) for run in split(range(61))] == [21, 20, 20]
    assert [len(run) for run in split(range(11))] == [11]
    assert [len(run) for run in split(range(13))] == [7, 6]
    assert [list(run) for run in split(range(4))] == [[0, 1, 2, 3]]
    assert split([]) == []


@given(st.integers(0, 700))
def test_split_loses_no_row_and_columns_differ_by_one_at_most(count: int):
    runs = split(range(count))
    assert [row for run in runs for row in run] == list(range(count))
    assert not runs or max(map(len, runs)) - min(map(len, runs)) <= 1
