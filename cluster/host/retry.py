"""Retries: a call that failed is made again after a wait, as long as its failures are transient."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def retry(
    call: Callable[[], T],
    *,
    waits: Iterable[float],
    is_transient: Callable[[Exception], bool],
    on_retry: Callable[[Exception], None] = lambda error: None,
) -> T:
    """Return the result of `call`, tried once more than there are `waits`, in seconds, which are slept in between.

    `on_retry` is told each failure that is followed by another try. Raises what `call` raised last, or at once what
    is not transient.
    """
    for seconds in waits:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            on_retry(error)
        time.sleep(seconds)
    return call()


def backoff_seconds(num_failures: int, *, first: float, most: float = float("inf")) -> float:
    """Return the seconds to wait after so many failures in a row (1 or more): doubled each time, up to `most`."""
    return min(most, first * 2.0 ** min(num_failures - 1, 60))


def backoff_waits(num_retries: int, *, first: float, most: float = float("inf")) -> list[float]:
    """Return the waits of `num_retries` retries: `first` seconds, doubled each time, at most `most`."""
    return [backoff_seconds(number, first=first, most=most) for number in range(1, num_retries + 1)]


def fixed_waits(seconds: float, *, for_seconds: float) -> Iterator[float]:
    """Yield equal waits for as long as `for_seconds` have not passed since the first try."""
    deadline = time.monotonic() + for_seconds
    while time.monotonic() <= deadline:
        yield seconds
