"""The driver of a run: attempts one after another, each in a process of its own, and what becomes of each written down.

It is light, and does nothing but watch: what kills an attempt does not kill it. When it is killed itself, `concord
resume` starts another, here or elsewhere: all that it knows is in the run's directory.
"""

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import TypeVar

from cluster.host.console import say
from cluster.leases.fence import LEASES, Fence
from cluster.leases.lease import store_lease
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.runs.child import Child
from pipeline.runs.directory import RunDirectory, now
from pipeline.runs.patience import Patience
from pipeline.runs.progress import all_made, landmarks
from pipeline.runs.records import AttemptRecord, RequestRecord, StartRecord
from pipeline.runs.retry import RESUME_ME, Ended, Outcome, wait_before_next
from pipeline.store.provenance import code_version, package_versions

T = TypeVar("T")

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LOGS = 30.0


@dataclass
class Driver:
    """What a driver knows while it works."""

    directory: RunDirectory
    start: StartRecord
    machines: ClusterConfig
    fence: Fence
    ray_address: str | None
    signalled: int | None = None
    """The signal that asked this driver to end."""

    stopped: bool = False
    """Whether the user has asked for the end."""

    out_of_time: bool = False
    deadline: float = math.inf
    """When the time limit is over, by the monotonic clock."""

    last_beat: datetime | None = None
    """The last sign of life of the driver before."""

    published: float = 0.0
    """When the log was last put into the store."""

    def run(self) -> int:
        """Make attempts until one has finished, or there is to be no further one; the exit code of the driver."""
        self.patience = Patience(self.machines.retries)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note_signal)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # attempts inherit that, and hear it while they train
        self._close_lost()
        self.patience.until_done(lambda: self.directory.drop_requests(self.start.time))
        if (limit := self.machines.time_limit_minutes) is not None:
            self.deadline = time.monotonic() + limit * 60 - spent_seconds(self.directory.attempts())
        while True:
            attempt = self._attempt(len(self.directory.attempts()) + 1)
            if attempt.outcome in ("finished", "stopped"):
                return 0
            if self.signalled is not None and not self.out_of_time:
                return RESUME_ME
            wait = wait_before_next(self.machines.retries, self._ended())
            if wait is None:
                # Not RESUME_ME: a scheduler would start what has just been given up.
                code = attempt.exit_code or 1
                return code if code > 0 and code != RESUME_ME else 1
            say(f"attempt {attempt.number} ended ({_words(attempt)}); the next begins in {wait:g} s")
            if not self._sleep(wait):
                if self.signalled is not None:
                    return RESUME_ME
                stopped = attempt.model_copy(update={"outcome": "stopped"})
                self._write(partial(self.directory.end_attempt, stopped))
                return 0

    def _ended(self) -> list[Ended]:
        """The attempts of this start, by this driver or one before it: a scheduler may start the same job again."""
        mine = [attempt for attempt in self.directory.attempts() if attempt.start == self.start.number]
        return [Ended(attempt.outcome, attempt.progressed) for attempt in mine if attempt.outcome is not None]

    def _attempt(self, number: int) -> AttemptRecord:
        before = landmarks(self.directory.home, self.start.artifacts)
        record = AttemptRecord(
            number=number,
            start=self.start.number,
            host=socket.gethostname(),
            pid=os.getpid(),
            began=now(),
            code=code_version(),
            packages=package_versions(),
        )
        if not self._write(lambda: self.directory.add_attempt(record)):
            raise UserError(f"attempt {number} of run {self.directory.id} was begun by another driver; leave it to it")
        say(f"attempt {number} of run {self.directory.id} begins")
        with Child(self._command(number), grace_seconds=grace_seconds(self.machines)) as child:
            while not child.wait(SECONDS_BETWEEN_LOOKS):
                self._look(child)
        outcome, reason = self._verdict(child)
        progressed = landmarks(self.directory.home, self.start.artifacts) != before
        update = {"ended": now(), "outcome": outcome, "reason": reason, "exit_code": child.exit_code}
        record = record.model_copy(update=update | {"progressed": progressed})
        self._write(lambda: self.directory.end_attempt(record))
        self._write(lambda: self.directory.publish_log(self.start.number))
        return record

    def _write(self, write: Callable[[], T]) -> T:
        """Write into the run's directory, as who holds the run's lease."""

        def fenced() -> T:
            self.fence.check_there()
            return write()

        return self.patience.until_done(fenced)

    def _command(self, number: int) -> list[str]:
        options = ["--store", self.directory.store, "--work-dir", self.machines.storage.work_dir]
        options += ["--start", str(self.start.number)]
        options += ["--ray-address", self.ray_address] if self.ray_address else []
        options += ["--take-over"] if self.start.take_over and self._is_first(number) else []
        return [sys.executable, "-P", "-m", "pipeline.cli", "attempt", *options, self.directory.id]

    def _is_first(self, number: int) -> bool:
        """Whether an attempt is the first of this start: only that one passes over others."""
        return not any(one.start == self.start.number and one.number < number for one in self.directory.attempts())

    def _look(self, child: Child) -> None:
        """Pass on what was asked for since the last look."""
        self.fence.check()
        for request in self._requests():
            if request.what == "stop":
                self.stopped = True
                say(f"stop: asked for by {request.user} on {request.host}")
            else:
                child.send(signal.SIGUSR2)
        if time.monotonic() > self.deadline and not self.out_of_time:
            self.out_of_time = True
            say(f"the time limit of {self.machines.time_limit_minutes:g} minutes is over; saving a checkpoint")
        if self.stopped or self.out_of_time or self.signalled is not None:
            child.end()
        if time.monotonic() > self.published + SECONDS_BETWEEN_LOGS:
            self.published = time.monotonic()
            self.patience.unless_silent(lambda: self.directory.publish_log(self.start.number))

    def _requests(self) -> list[RequestRecord]:
        """What is asked for since the last look; none while the store does not answer."""
        found: list[RequestRecord] = []

        def take() -> None:
            for name, request in self.directory.requests().items():
                found.append(request)
                self.directory.heard(name)

        self.patience.unless_silent(take)
        return found

    def _verdict(self, child: Child) -> tuple[Outcome, str]:
        outcome, reason = child.outcome(), child.reason()
        if outcome == "preempted" and all_made(self.directory.home, self.start.artifacts):
            return "finished", ""  # the end came before the signal
        if outcome != "finished" and self.stopped:
            return "stopped", reason
        if outcome != "finished" and self.out_of_time:
            return "time_limit", f"the time limit of {self.machines.time_limit_minutes:g} minutes is over; {reason}"
        return outcome, reason

    def _sleep(self, seconds: float) -> bool:
        """Wait before the next attempt; False if the run is to end meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.signalled is None:
            if any(request.what == "stop" for request in self._requests()):
                return False
            time.sleep(min(SECONDS_BETWEEN_LOOKS, seconds))
        return self.signalled is None

    def _close_lost(self) -> None:
        """Write down that attempts whose driver died with them are over."""
        for attempt in self.directory.attempts():
            if attempt.outcome is None:
                reason = f"its driver, process {attempt.pid} on {attempt.host}, was never heard of again"
                ended = max(attempt.began, self.last_beat or attempt.began)
                lost = attempt.model_copy(update={"ended": ended, "outcome": "lost", "reason": reason})
                self._write(partial(self.directory.end_attempt, lost))

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signalled = number


def drive(directory: RunDirectory, start: StartRecord, machines: ClusterConfig, *, ray_address: str | None) -> int:
    """Make attempts of a run until it is done; the exit code.

    Raises LeaseHeld if another driver is at it, and UserError if this start has been followed by another.
    """
    if (latest := directory.starts()[-1].number) != start.number:
        raise UserError(
            f"start {start.number} of run {directory.id} was followed by start {latest}, which has the run now; leave "
            "it to that one"
        )
    name, last_beat = lease_name(directory.id), _last_beat(directory)
    take_over = start.take_over and not any(attempt.start == start.number for attempt in directory.attempts())
    with store_lease(directory.remote, directory.home, name, step=directory.id, take_over=take_over) as fence:
        return Driver(directory, start, machines, fence, ray_address, last_beat=last_beat).run()


def lease_name(run_id: str) -> str:
    """The lease that the driver of a run holds."""
    return f"run-{run_id}"


def grace_seconds(machines: ClusterConfig) -> float:
    """The longest that any pool gives a training to save."""
    return max(pool.grace_seconds for pool in machines.pools.values())


def spent_seconds(attempts: Sequence[AttemptRecord]) -> float:
    """Time that attempts have taken, of those that have ended."""
    return sum((one.ended - one.began).total_seconds() for one in attempts if one.ended)


def _last_beat(directory: RunDirectory) -> datetime | None:
    """When the driver before was last heard of, from its lease."""
    path = directory.home / LEASES / lease_name(directory.id)
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.exists() else None


def _words(attempt: AttemptRecord) -> str:
    return attempt.reason or str(attempt.outcome)
