"""Times the parts of a step: data, forward, backward, communication and so on; every moment belongs to one part."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch

from training.accelerator import current_stream, is_accelerator, new_event

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


MAX_MARKS = 2_000
"""On a GPU no more marks than these are made for what is inside a pass of a step. Each is an event, of some 5 us on the
host; ZeRO-3 would wait for thousands of modules. What comes later counts with the pass, on every rank alike."""


class Stopwatch:
    """Measures wall time by part; on a GPU by events, so that the host does not wait for it.

    The events are on the stream that is current when the stopwatch is made, on which the passes compute. What runs on
    other streams takes none of its time; waiting for them does.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = current_stream(device) if is_accelerator(device) else None
        self._spare_events: list[Any] = []
        self._parts = ["other"]
        self._marks: list[tuple[str, Any]] = [("other", self._now())]
        self.label: Callable[[str], AbstractContextManager[object]] = nullcontext
        """What each part is entered in, by its name: a profiler's label while one records."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block as part `name`, but for the parts that begin inside it."""
        if self._stream is not None and (self._is_on_another_stream() or self._has_enough_marks()):
            yield
            return
        self._enter(name)
        try:
            with self.label(name):
                yield
        finally:
            self._leave()

    def pop_seconds(self) -> dict[str, float]:
        """Return the seconds by part since the last call, rounded to 0.1 ms. Waits for a GPU's stream."""
        end = self._now()
        if self._stream is not None:
            end.synchronize()
        marks = [*self._marks, ("", end)]
        seconds: dict[str, float] = {}
        for (name, start), (_, stop) in pairwise(marks):
            seconds[name] = seconds.get(name, 0.0) + self._between(start, stop)
        if self._stream is not None:
            self._spare_events += [event for _, event in self._marks]
        self._marks = [(self._parts[-1], end)]
        return {name: round(value, 4) for name, value in seconds.items()}

    def time_call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time counts as `communication`."""

        def wrapper(*arguments: Any, **named: Any) -> Any:
            with self.part("communication"):
                return call(*arguments, **named)

        return wrapper

    def time_collective(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a collective so that its time, and that of waiting for its result, counts as `communication`."""
        timed = self.time_call(call)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            work = timed(*arguments, **named)
            return _TimedWork(work, self) if hasattr(work, "wait") else work

        return wrapper

    def _is_on_another_stream(self) -> bool:
        return bool(current_stream(self._device) != self._stream)

    def _has_enough_marks(self) -> bool:
        is_inside_a_pass = len(self._parts) > 1
        return is_inside_a_pass and len(self._marks) >= MAX_MARKS

    def _enter(self, name: str) -> None:
        self._parts.append(name)
        self._marks.append((name, self._now()))

    def _leave(self) -> None:
        self._parts.pop()
        self._marks.append((self._parts[-1], self._now()))

    def _now(self) -> Any:
        if self._stream is None:
            return time.perf_counter()
        event = self._spare_events.pop() if self._spare_events else new_event(self._device)
        event.record(self._stream)
        return event

    def _between(self, start: Any, stop: Any) -> float:
        return float(stop - start) if self._stream is None else float(start.elapsed_time(stop)) / 1000


class _TimedWork:
    """An asynchronous collective; waiting for it counts as communication."""

    def __init__(self, work: Any, stopwatch: Stopwatch) -> None:
        self._work, self._stopwatch = work, stopwatch

    def wait(self, *arguments: Any, **named: Any) -> Any:
        with self._stopwatch.part("communication"):
            return self._work.wait(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
