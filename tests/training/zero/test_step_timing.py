"""Where the time of a step goes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.zero import step_timing as timing
from training.zero.step_timing import MAX_MARKS, Stopwatch


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


class Stream:
    """A stream of a GPU; its clock is when it has done what it was given so far."""

    def __init__(self) -> None:
        self.clock, self.device = 0.0, "cuda:0"


class Gpu:
    """The functions of torch.cuda that the stopwatch uses."""

    def __init__(self) -> None:
        self.main, self.side, self.num_events = Stream(), Stream(), 0
        self.current = self.main
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                gpu.num_events += 1

            def record(self, stream: Stream) -> None:
                self.time = stream.clock

            def synchronize(self) -> None:
                assert self.time == gpu.main.clock

            def elapsed_time(self, later: "Event") -> float:
                return 1000 * (later.time - self.time)

        self.functions = SimpleNamespace(Event=Event, current_stream=lambda device: self.current)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(torch, "get_device_module", lambda device: made.functions)
    return made


def test_on_a_gpu_what_another_stream_does_takes_no_time_and_waiting_for_it_does(gpu: Gpu) -> None:
    stopwatch = Stopwatch(torch.device("cuda"))

    def collective() -> None:
        gpu.side.clock = max(gpu.side.clock, 1.0) + 6.0

    def wait() -> None:
        gpu.main.clock = max(gpu.main.clock, gpu.side.clock)

    with stopwatch.part("backward"):
        gpu.main.clock = 5.0
        gpu.current = gpu.side  # whose clock is behind: times by its events would be negative
        stopwatch.time_collective(collective)()
        gpu.current = gpu.main
        gpu.main.clock = 6.0
        stopwatch.time_call(wait)()
        gpu.main.clock += 2.0
    assert stopwatch.pop_seconds() == {"other": 0.0, "backward": 8.0, "communication": 1.0}


def test_on_a_gpu_a_result_that_the_main_stream_waits_for_is_communication_wherever_it_comes_from(gpu: Gpu) -> None:
    class Work:
        def wait(self) -> None:
            gpu.current.clock = max(gpu.current.clock, 4.0)

    stopwatch = Stopwatch(torch.device("cuda"))
    gpu.current = gpu.side
    one, other = stopwatch.time_collective(Work)(), stopwatch.time_collective(Work)()
    other.wait()
    gpu.current = gpu.main
    one.wait()
    assert stopwatch.pop_seconds() == {"other": 0.0, "communication": 4.0}


def test_on_a_gpu_a_step_has_a_bounded_number_of_events_and_they_are_used_again(gpu: Gpu) -> None:
    stopwatch = Stopwatch(torch.device("cuda"))
    for _ in range(3):
        for name in ("forward", "backward"):
            with stopwatch.part(name):
                for _ in range(MAX_MARKS):
                    with stopwatch.part("communication"):
                        gpu.main.clock += 1.0
        seconds = stopwatch.pop_seconds()
        assert sum(seconds.values()) == 2 * MAX_MARKS
        assert seconds["communication"] >= MAX_MARKS / 2 - 2
        assert seconds["backward"] == MAX_MARKS, "a pass is a part of its own, whatever there was before"
    assert gpu.num_events <= MAX_MARKS + 10
