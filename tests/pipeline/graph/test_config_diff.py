from typing import Any

import pytest

from pipeline.graph.config_diff import ABSENT, Change, diff, flatten


def test_values_are_flattened_to_dotted_keys_in_order():
    config: dict[str, Any] = {"b": {"x": None, "y": {}}, "a": [1, {"z": 2}], "c": [1, 2]}
    assert list(flatten(config)) == [("b.x", None), ("b.y", {}), ("a.0", 1), ("a.1.z", 2), ("c", [1, 2])]
    assert list(flatten({})) == []


def test_what_differs_is_listed_in_the_order_of_the_later_config_and_what_is_gone_last():
    before = {"gone": 1, "same": {"a": 1}, "list": [{"x": 1}, {"x": 2}]}
    after = {"new": {"a": 1, "b": 2}, "same": {"a": 1}, "list": [{"x": 1}, {"x": 3}]}
    assert diff(before, after) == [
        Change("new.a", ABSENT, 1),
        Change("new.b", ABSENT, 2),
        Change("list.1.x", 2, 3),
        Change("gone", 1, ABSENT),
    ]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": {"x": 1}}, {}, [Change("a", {"x": 1}, ABSENT)]),
        ({"a": {"x": 1}}, {"a": {"x": 1, "y": {"z": 2}}}, [Change("a.y", ABSENT, {"z": 2})]),
        ({"a": None}, {"a": {"x": 1}}, [Change("a", None, {"x": 1})]),
        ({"a": {}}, {"a": {"x": 1}}, [Change("a.x", ABSENT, 1)]),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1}, {"x": 2}]}, [Change("a.1", ABSENT, {"x": 2})]),
        ({"a": {}}, {"a": {}}, []),
    ],
)
def test_what_only_one_has_is_one_change_if_it_is_asked_for_as_a_whole(before, after, changes):
    assert diff(before, after, whole=True) == changes
