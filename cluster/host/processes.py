"""Processes of this host, each told by its pid and its birth from later ones that get the same pid."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SECONDS_BETWEEN_KILLS = 0.01


def start_ticks(pid: int) -> int | None:
    """Return the clock ticks from boot to the start of a process, field 22 of proc(5)'s stat; None if it has ended."""
    # psutil gives this time in seconds since 1970 only: the ticks plus a boot time that moves whenever the clock is
    # set, so two readings of one process may differ. The ticks never do, and handles on disk hold them.
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])


def signal_process(pid: int, born: int, what: signal.Signals, *, send: Callable[[int, int], None] = os.kill) -> None:
    """Send a signal to a process, or with os.killpg to its process group, unless the process has ended."""
    if start_ticks(pid) == born:
        with suppress(ProcessLookupError):
            send(pid, what)


def end_process(pid: int, born: int) -> None:
    """Kill a process and wait until it is gone; do nothing if its pid means another process by now."""
    while start_ticks(pid) == born:
        signal_process(pid, born, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_KILLS)
