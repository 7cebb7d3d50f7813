"""Retries: how often, after which waits, and for which failures."""

import pytest

from cluster.host import retry as retries
from cluster.host.retry import backoff_seconds, backoff_waits, fixed_waits, retry


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waits.append)
    return waits


def failing(num_times: int, error: Exception) -> tuple[list[int], object]:
    calls: list[int] = []

    def call() -> str:
        calls.append(len(calls))
        if len(calls) <= num_times:
            raise error
        return "done"

    return calls, call


def test_a_transient_failure_is_tried_again_after_each_wait_and_told(slept: list[float]) -> None:
    calls, call = failing(2, TimeoutError("away"))
    told: list[str] = []
    done = retry(call, waits=[1.0, 2.0, 4.0], is_transient=lambda e: True, on_retry=lambda e: told.append(str(e)))  # type: ignore[arg-type]
    assert (done, len(calls), slept, told) == ("done", 3, [1.0, 2.0], ["away", "away"])


def test_the_last_failure_is_raised_when_the_waits_are_used_up(slept: list[float]) -> None:
    calls, call = failing(9, TimeoutError("away"))
    with pytest.raises(TimeoutError):
        retry(call, waits=[1.0, 2.0], is_transient=lambda error: True)  # type: ignore[arg-type]
    assert (len(calls), slept) == (3, [1.0, 2.0])


def test_what_is_not_transient_is_raised_at_once(slept: list[float]) -> None:
    calls, call = failing(1, PermissionError("no"))
    with pytest.raises(PermissionError):
        retry(call, waits=[1.0], is_transient=lambda error: isinstance(error, TimeoutError))  # type: ignore[arg-type]
    assert (len(calls), slept) == (1, [])


def test_a_back_off_doubles_up_to_its_longest_wait() -> None:
    assert backoff_waits(4, first=5.0, most=30.0) == [5.0, 10.0, 20.0, 30.0]
    assert backoff_waits(0, first=5.0) == []
    assert backoff_seconds(10_000, first=1.0, most=300.0) == 300.0


def test_fixed_waits_end_with_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    waits = []
    for seconds in fixed_waits(15.0, for_seconds=40.0):
        waits.append(seconds)
        now[0] += seconds
    assert waits == [15.0, 15.0, 15.0]
