"""Times the parts of a step: data, forward, backward, communication and so on; every moment belongs to one part."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch

from training.accelerator import is_accelerator, new_event

COLLECTIVES = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "all_to_all_single",
)
"""The methods of its communication backend that DeepSpeed calls."""


class Stopwatch:
    """Measures wall time by part; on a GPU, by events on its current stream, so that the host does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts = ["other"]
        self._marks: list[tuple[str, Any]] = [("other", self._now())]
        self.label: Callable[[str], AbstractContextManager[object]] = nullcontext
        """What each part is entered in, by its name: a profiler's label while one records."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block as part `name`, but for the parts that begin inside it."""
        self._enter(name)
        try:
            with self.label(name):
                yield
        finally:
            self._leave()

    def pop_seconds(self) -> dict[str, float]:
        """Return the seconds by part since the last call, rounded to 0.1 ms. Waits for a GPU's stream."""
        end = self._now()
        if is_accelerator(self._device):
            end.synchronize()
        marks = [*self._marks, ("", end)]
        seconds: dict[str, float] = {}
        for (name, start), (_, stop) in pairwise(marks):
            seconds[name] = seconds.get(name, 0.0) + self._between(start, stop)
        self._marks = [(self._parts[-1], end)]
        return {name: round(value, 4) for name, value in seconds.items()}

    def time_collective(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a collective so that its time, and that of waiting for its result, counts as `communication`."""

        def wrapper(*arguments: Any, **named: Any) -> Any:
            with self.part("communication"):
                work = call(*arguments, **named)
            return _TimedWork(work, self) if hasattr(work, "wait") else work

        return wrapper

    def _enter(self, name: str) -> None:
        self._parts.append(name)
        self._marks.append((name, self._now()))

    def _leave(self) -> None:
        self._parts.pop()
        self._marks.append((self._parts[-1], self._now()))

    def _now(self) -> Any:
        if not is_accelerator(self._device):
            return time.perf_counter()
        event = new_event(self._device)
        event.record()
        return event

    def _between(self, start: Any, stop: Any) -> float:
        return float(start.elapsed_time(stop)) / 1000 if is_accelerator(self._device) else float(stop - start)


class _TimedWork:
    """An asynchronous collective; waiting for it counts as communication."""

    def __init__(self, work: Any, stopwatch: Stopwatch) -> None:
        self._work, self._stopwatch = work, stopwatch

    def wait(self, *arguments: Any, **named: Any) -> Any:
        with self._stopwatch.part("communication"):
            return self._work.wait(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
