"""Ends hangs: a rank that makes no progress within its timeout writes the stacks of its threads, and ends its process.

All ranks wait for each other in every step, so when one hangs all do. The first to time out creates the directory of
the stacks; the others see it and write theirs, too, each with PyTorch's record of its collectives. The first then
judges by what all have written whom they wait for (`hangs.py`) and writes it down, and each rank prints at last
whether it is at fault. A Python thread does this, or, where the interpreter is stuck, a thread of faulthandler's.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from cluster.executor import Rank
from cluster.rank_output import print_end
from cluster.storage.errors import ignore_transient
from configs.base import UserError
from training.log.notices import write_notices
from training.loop.hangs import STACKS, Verdict, heading, judge, read_hang, read_verdict, write_verdict
from training.zero.process_group import collectives_so_far

SECONDS_BETWEEN_POLLS = 0.5
SECONDS_FOR_OTHER_RANKS = 10.0
"""How long a rank that has written its stacks waits for those of the others before it ends."""

SECONDS_FOR_VERDICT = 20.0
"""How long the others wait for the verdict of the first beyond that."""

SECONDS_FOR_RECORD = 3.0
"""How long the record of the collectives may take: where the device is lost it may not come."""

SECONDS_BETWEEN_LOOKS = 0.2

_GIVE_UP_SECONDS = 2 * (SECONDS_FOR_OTHER_RANKS + SECONDS_FOR_VERDICT)

START_TIMEOUT_FACTOR = 3.0
"""Building and loading, and the first step, which may compile, may take so many times the timeout."""


class Watchdog:
    """Watches one rank, which calls `beat` at each new piece of work. A context manager."""

    def __init__(self, out: Path, rank: Rank, *, timeout_seconds: float) -> None:
        self._out, self._rank, self._timeout = out, rank, timeout_seconds
        self._directory = out / STACKS / f"attempt-{rank.num_restarts}-{rank.port}"
        self._work, self._deadline = "", 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.beat("the start", timeout_factor=START_TIMEOUT_FACTOR)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        faulthandler.cancel_dump_traceback_later()

    def beat(self, work: str, *, timeout_factor: float = 1.0) -> None:
        """Note that the named work begins now; it may take `timeout_factor` times the timeout."""
        self._work, self._deadline = work, time.monotonic() + timeout_factor * self._timeout

    def _watch(self) -> None:
        while not self._done.wait(min(SECONDS_BETWEEN_POLLS, self._timeout / 4)):
            seconds_left = self._deadline - time.monotonic()
            # set anew while this thread can run; if it cannot, faulthandler's own deadline passes
            faulthandler.dump_traceback_later(max(seconds_left, 0) + _GIVE_UP_SECONDS, exit=True)
            others_hang = False
            with ignore_transient():  # a file system that is away is asked again
                others_hang = self._directory.exists()
            if seconds_left < 0 or others_hang:
                self._end_process()

    def _end_process(self) -> None:
        """Write the stacks of all threads, and end. The first of the ranks judges, and tells the user."""
        is_at_fault = False
        try:
            is_first = self._make_directory()
            self._write_stacks()
            verdict = self._judge() if is_first else self._wait_for_verdict()
            is_at_fault = verdict is not None and verdict.host is not None and self._rank.index in verdict.suspects
        except Exception as error:  # a full disk, or one that hangs everybody: the process ends all the same
            print(f"the stacks could not be written to {self._directory} ({error})", file=sys.stderr)
            faulthandler.dump_traceback(all_threads=True)
        print_end("hung" if is_at_fault else "waited")
        os._exit(1)

    def _make_directory(self) -> bool:
        """Make the directory of the stacks; return whether this rank is the first."""
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._directory.mkdir()
        except FileExistsError:
            return False
        return True

    def _write_stacks(self) -> None:
        """Write the record of the collectives, if it comes, and then the stacks, which mark that both are there."""
        path = self._directory / f"rank-{self._rank.index:05d}.txt"
        writing = threading.Thread(target=_write_record, args=(path.with_suffix(".json"),), daemon=True)
        writing.start()
        writing.join(SECONDS_FOR_RECORD)
        partial = path.with_suffix(".part")
        with partial.open("w", encoding="utf-8") as file:
            file.write(heading(self._rank.index, self._rank.world_size, socket.gethostname(), self._work))
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
            os.fsync(file.fileno())
        partial.replace(path)

    def _judge(self) -> Verdict:
        """Wait for the stacks of all, for at most SECONDS_FOR_OTHER_RANKS; judge, write that down and tell the user."""
        deadline = time.monotonic() + SECONDS_FOR_OTHER_RANKS
        while len(list(self._directory.glob("*.txt"))) < self._rank.world_size and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        try:
            verdict = judge(read_hang(self._directory))
        except UserError as error:
            verdict = Verdict((), None, str(error))
        write_verdict(self._directory, verdict)
        text = (
            f"rank {self._rank.index} made no progress for {self._timeout:g} s, during {self._work}; {verdict.text}; "
            f"the stack of every rank is in {self._directory}"
        )
        print(text, file=sys.stderr, flush=True)
        write_notices(self._out, [text])
        return verdict

    def _wait_for_verdict(self) -> Verdict | None:
        """Return what the first has written; None if that does not come, as where it was stopped meanwhile."""
        deadline = time.monotonic() + SECONDS_FOR_OTHER_RANKS + SECONDS_FOR_VERDICT
        while (verdict := read_verdict(self._directory)) is None and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return verdict


def _write_record(path: Path) -> None:
    if (record := collectives_so_far()) is not None:
        partial = path.with_suffix(".partial")
        partial.write_bytes(record)
        partial.replace(path)
