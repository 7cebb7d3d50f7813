"""Where the time of a step goes: every moment belongs to one named part."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

COLLECTIVES = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "all_to_all_single",
)
"""What DeepSpeed calls on its communication backend."""


class Stopwatch:
    """Wall time by part; on a GPU, the time of its current stream, by events, so that nothing is waited for."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._parts = ["other"]
        self._marks: list[tuple[str, Any]] = [("other", self._now())]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time of the block goes to `name`, but for the parts inside it."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call, rounded to 0.1 ms. On a GPU its stream must have been waited for."""
        end = self._now()
        if self._gpu:
            end.synchronize()
        marks = [*self._marks, ("", end)]
        seconds: dict[str, float] = {}
        for (name, start), (_, stop) in pairwise(marks):
            seconds[name] = seconds.get(name, 0.0) + self._between(start, stop)
        self._marks = [(self._parts[-1], end)]
        return {name: round(value, 4) for name, value in seconds.items()}

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, a collective, whose time goes to `communication`; also that of waiting for its result."""

        def wrapper(*arguments: Any, **named: Any) -> Any:
            with self.part("communication"):
                work = call(*arguments, **named)
            return _Waited(work, self) if hasattr(work, "wait") else work

        return wrapper

    def _enter(self, name: str) -> None:
        self._parts.append(name)
        self._marks.append((name, self._now()))

    def _leave(self) -> None:
        self._parts.pop()
        self._marks.append((self._parts[-1], self._now()))

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, start: Any, stop: Any) -> float:
        return float(start.elapsed_time(stop)) / 1000 if self._gpu else float(stop - start)


class _Waited:
    """A collective under way; waiting for it is communication."""

    def __init__(self, work: Any, watch: Stopwatch) -> None:
        self._work, self._watch = work, watch

    def wait(self, *arguments: Any, **named: Any) -> Any:
        with self._watch.part("communication"):
            return self._work.wait(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
