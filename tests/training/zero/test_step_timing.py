"""Where the time of a step goes."""

from typing import Any

import pytest
import torch

from training.loop.step import Stragglers
from training.zero import step_timing as timing
from training.zero.step_timing import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets: the last number is the time."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[-1])
    return now


def test_every_moment_belongs_to_one_part(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    clock.append(1.0)
    with watch.part("backward"):
        clock.append(3.0)
        with watch.part("communication"):
            clock.append(7.0)
        clock.append(8.0)
    clock.append(8.5)
    assert watch.take() == {"other": 1.5, "backward": 3.0, "communication": 4.0}
    clock.append(9.0)
    assert watch.take() == {"other": 0.5}


def test_a_part_that_raises_is_left(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    with pytest.raises(KeyError), watch.part("data"):
        clock.append(2.0)
        raise KeyError
    clock.append(3.0)
    assert watch.take() == {"other": 1.0, "data": 2.0}


def test_a_collective_and_the_wait_for_it_are_communication(clock: list[float]) -> None:
    class Work:
        name = "work"

        def wait(self) -> str:
            clock.append(clock[-1] + 2.0)
            return "done"

    def collective(asynchronous: bool) -> Any:
        clock.append(clock[-1] + 1.0)
        return Work() if asynchronous else None

    watch = Stopwatch(torch.device("cpu"))
    timed = watch.timed(collective)
    assert timed(False) is None
    work = timed(True)
    clock.append(clock[-1] + 10.0)
    assert (work.wait(), work.name) == ("done", "work")
    assert watch.take() == {"other": 10.0, "communication": 4.0}


def test_a_straggler_is_named_once_with_its_host() -> None:
    look = Stragglers(["a", "b", "c", "d"])
    said = [text for _ in range(60) for text in look.look([1.0, 1.1, 2.5, 0.9])]
    assert said == [
        "rank 2 on c is a straggler, which all wait for: over 20 steps it took 2.5 times as long as the others"
    ]
    assert [text for _ in range(20) for text in look.look([1.0, 1.1, 1.0, 0.9])] == []
    assert len([text for _ in range(20) for text in look.look([1.0, 1.1, 2.5, 0.9])]) == 1, "slow again, said again"


def test_a_slow_step_makes_no_straggler() -> None:
    look = Stragglers(["a", "b"])
    rows = [[1.0, 9.0 if step % 3 == 0 else 1.0] for step in range(40)]
    assert [text for row in rows for text in look.look(row)] == []
    assert [text for _ in range(40) for text in Stragglers(["a"]).look([1.0])] == []
