"""Processes of this host, each told by its pid and its birth from later ones that get the same pid."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from configs.base import InfrastructureError

SECONDS_BETWEEN_KILLS = 0.01

KILL_SECONDS = 30.0
"""How long a killed process may take to be gone: with much memory of a GPU it takes seconds."""


class StuckProcess(InfrastructureError):
    """A process cannot be killed. It computes and writes nothing more, but keeps its memory and its devices."""


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


def end_process(pid: int, born: int, *, timeout_seconds: float = KILL_SECONDS) -> None:
    """Kill a process and wait until it is gone; do nothing if its pid means another process by now.

    Raises StuckProcess if it is still there at the end of the time.
    """
    deadline = time.monotonic() + timeout_seconds
    while start_ticks(pid) == born:
        signal_process(pid, born, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise StuckProcess(
                f"process {pid} was killed {timeout_seconds:g} s ago and is still there: it waits in the kernel, as "
                "where a GPU or a file system does not answer; see dmesg, and restart the host"
            )
        time.sleep(SECONDS_BETWEEN_KILLS)
