"""Processes of this machine, told from others that have had the same number."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def birth_of(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process (proc(5)); None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])


def signal_process(pid: int, born: int, what: signal.Signals, *, send: Callable[[int, int], None] = os.kill) -> None:
    """Send a signal to a process, or with os.killpg to its group, unless it has ended."""
    if birth_of(pid) == born:
        with suppress(ProcessLookupError):
            send(pid, what)
