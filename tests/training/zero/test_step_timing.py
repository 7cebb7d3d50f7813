"""Where the time of a step goes."""

from typing import Any

import pytest
import torch

from training.zero import step_timing as timing
from training.zero.step_timing import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets: the last number is the time."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[-1])
    return now


def test_every_moment_belongs_to_one_part(clock: list[float]) -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    clock.append(1.0)
    with stopwatch.part("backward"):
        clock.append(3.0)
        with stopwatch.part("communication"):
            clock.append(7.0)
        clock.append(8.0)
    clock.append(8.5)
    assert stopwatch.pop_seconds() == {"other": 1.5, "backward": 3.0, "communication": 4.0}
    clock.append(9.0)
    assert stopwatch.pop_seconds() == {"other": 0.5}


def test_a_part_that_raises_is_left(clock: list[float]) -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    with pytest.raises(KeyError), stopwatch.part("data"):
        clock.append(2.0)
        raise KeyError
    clock.append(3.0)
    assert stopwatch.pop_seconds() == {"other": 1.0, "data": 2.0}


def test_a_collective_and_the_wait_for_it_are_communication(clock: list[float]) -> None:
    class Work:
        name = "work"

        def wait(self) -> str:
            clock.append(clock[-1] + 2.0)
            return "done"

    def collective(asynchronous: bool) -> Any:
        clock.append(clock[-1] + 1.0)
        return Work() if asynchronous else None

    stopwatch = Stopwatch(torch.device("cpu"))
    timed = stopwatch.time_collective(collective)
    assert timed(False) is None
    work = timed(True)
    clock.append(clock[-1] + 10.0)
    assert (work.wait(), work.name) == ("done", "work")
    assert stopwatch.pop_seconds() == {"other": 10.0, "communication": 4.0}
