"""Work in a child process: what it gives comes at once, and what ends it is told."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from training.conform.child import ChildFailed, run_in_child


def give(*numbers: int) -> Iterator[int]:
    yield from numbers


def give_and(end: str) -> Iterator[int]:
    yield 1
    print("the last thing it said", flush=True)
    if end == "raise":
        raise ValueError("two\nlines")
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "exit":
        os._exit(3)
    time.sleep(1000)


def test_results_of_a_child_arrive_in_order(tmp_path):
    assert list(run_in_child(give, 1, 2, 3, seconds=60, log=tmp_path / "log")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("end", "why", "seconds"),
    [
        ("raise", "ValueError: two lines", 60),
        ("kill", "its process was ended by SIGKILL: the last thing it said", 60),
        ("exit", "its process ended with 3: the last thing it said", 60),
        ("hang", "it took longer than 2 s", 2),
    ],
)
def test_a_child_that_fails_says_why_after_what_it_gave(tmp_path, end, why, seconds):
    found = []
    with pytest.raises(ChildFailed, match=why):
        for result in run_in_child(give_and, end, seconds=seconds, log=tmp_path / "log"):
            found.append(result)
    assert found == [1]
