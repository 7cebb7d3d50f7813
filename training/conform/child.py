"""Work in a process of its own, which may crash, hang or fill the device's memory without taking this one with it.

What an engine of DeepSpeed's holds goes with its process, and so does an accelerator that a failed kernel left broken.
Imports nothing heavy.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from configs.text import one_line

_PRELOADED = "training.conform.synthetic_job"


class ChildFailed(Exception):
    """The work did not come to its end. The message says why, in one line."""


def run_in_child(
    work: Callable[..., Iterator[Any]], *arguments: Any, seconds: float, log: Path, fork: bool = False
) -> Iterator[Any]:
    """Yield what `work(*arguments)` yields in a child process, as soon as it does.

    `work` is a function of a module; it, its arguments and its results are picklable. What it prints goes to the file
    `log`. With `fork` the child comes from a process that has the libraries loaded, which no accelerator allows. Raises
    ChildFailed after what was yielded, if the child raises, dies, or takes longer than `seconds`.
    """
    context: Any = multiprocessing.get_context("forkserver" if fork else "spawn")
    if fork:
        context.set_forkserver_preload([_PRELOADED])
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_enter, args=(send, log, work, arguments), daemon=True)
    child.start()
    send.close()
    try:
        yield from _results(receive, deadline=time.monotonic() + seconds, seconds=seconds)
        child.join(5)
        if child.exitcode not in (0, None):
            raise ChildFailed(f"{_exit(child.exitcode)}{_last_line(log)}")
    finally:
        if child.is_alive():
            child.kill()
        child.join()
        receive.close()


def _results(receive: Connection, *, deadline: float, seconds: float) -> Iterator[Any]:
    while wait([receive], timeout=max(0.0, deadline - time.monotonic())):
        try:
            kind, value = receive.recv()
        except EOFError:  # the child has ended
            return
        if kind == "error":
            raise ChildFailed(value)
        yield value
    raise ChildFailed(f"it took longer than {seconds:.0f} s")


def _enter(send: Connection, log: Path, work: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno() if stream.fileno() in (1, 2) else 2)
    try:
        for result in work(*arguments):
            send.send(("result", result))
    except Exception as error:
        send.send(("error", one_line(f"{type(error).__name__}: {error}")[:300]))
    send.close()


def _exit(code: int) -> str:
    return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {one_line(said)[:200]}" if said else ""
