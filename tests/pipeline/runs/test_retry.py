"""When a run is begun again."""

import pytest

from configs.base import ConfigError, InfrastructureError, OutOfMemory, StartUpError, UserError
from configs.cluster import RetriesConfig
from pipeline.runs.retry import Ended, classify_exit, wait_before_next

POLICY = RetriesConfig(infrastructure=2, preemption=3, start_up=1, backoff_seconds=5, max_backoff_seconds=12)


def ended(*outcomes: str) -> list[Ended]:
    """In order; one that ends with `+` got somewhere."""
    return [Ended(outcome.rstrip("+"), outcome.endswith("+")) for outcome in outcomes]  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", ["finished", "stopped", "user", "memory", "time_limit"])
def test_what_would_end_the_same_way_is_not_begun_again(outcome):
    assert wait_before_next(POLICY, ended(outcome)) is None
    assert wait_before_next(POLICY, ended(f"{outcome}+")) is None


def test_waits_double_up_to_a_bound_and_end_with_the_budget():
    waits = [wait_before_next(POLICY, ended(*["preempted"] * count)) for count in (1, 2, 3, 4)]
    assert waits == [5, 10, 12, None]


def test_each_class_has_a_budget_of_its_own():
    assert wait_before_next(POLICY, ended("start_up", "infrastructure", "start_up")) is None
    assert wait_before_next(POLICY, ended("start_up", "infrastructure", "infrastructure")) == 10
    assert wait_before_next(POLICY, ended("lost")) == 5


def test_progress_fills_the_budget_up_again():
    assert wait_before_next(POLICY, ended("infrastructure", "infrastructure", "infrastructure+")) == 5
    assert wait_before_next(POLICY, ended("infrastructure", "infrastructure+", "infrastructure")) == 10
    assert wait_before_next(POLICY, ended("infrastructure", "infrastructure", "infrastructure")) is None


def test_what_is_not_known_has_a_small_budget():
    assert RetriesConfig().unknown == 2
    waits = [wait_before_next(RetriesConfig(unknown=1), ended(*["bug"] * count)) for count in (1, 2)]
    assert waits == [5, None]


def test_no_retries_are_none():
    never = RetriesConfig(infrastructure=0, preemption=0, start_up=0, unknown=0)
    for outcome in ("infrastructure+", "preempted+", "start_up+", "bug+"):
        assert wait_before_next(never, ended(outcome)) is None


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, "finished"),
        (UserError.exit_code, "user"),
        (ConfigError.exit_code, "user"),
        (StartUpError.exit_code, "start_up"),
        (InfrastructureError.exit_code, "infrastructure"),
        (OutOfMemory.exit_code, "memory"),
        (75, "preempted"),
        (130, "stopped"),
        (-9, "infrastructure"),
        (4, "bug"),
    ],
)
def test_exit_codes_say_the_class(code, outcome):
    assert classify_exit(code, explained=True) == outcome


def test_a_traceback_is_a_bug_and_no_mistake_of_the_users():
    assert classify_exit(1, explained=False) == "bug"
