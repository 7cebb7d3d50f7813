"""The driver of a run: attempts one after another, each in a process of its own, and what becomes of each written down.

It is light, and does nothing but watch: what kills an attempt does not kill it. When it is killed itself, `concord
resume` starts another, here or elsewhere: all that it knows is in the run's directory.
"""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from types import FrameType

from cluster.fence import Fence
from cluster.progress import say
from cluster.retry import RESUME_ME, Ended, Outcome, wait_before_next
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.lease import lease
from pipeline.provenance import code_version, package_versions
from pipeline.runs.child import Child
from pipeline.runs.directory import RunDirectory, now
from pipeline.runs.progress import landmarks
from pipeline.runs.records import AttemptRecord, StartRecord

SECONDS_BETWEEN_LOOKS = 0.5


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
    began: float = field(default_factory=time.monotonic)

    def run(self) -> int:
        """Make attempts until one has finished, or there is to be no further one; the exit code of the driver."""
        self._close_lost()
        spent = sum(_seconds(attempt) for attempt in self.directory.attempts())
        limit = self.machines.time_limit_minutes
        self.deadline = float("inf") if limit is None else time.monotonic() + limit * 60 - spent
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note_signal)
        while True:
            attempt = self._attempt(len(self.directory.attempts()) + 1)
            if attempt.outcome in ("finished", "stopped"):
                return 0
            if self.signalled is not None:
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
                self.directory.end_attempt(attempt.model_copy(update={"outcome": "stopped"}))
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
        self.fence.check()
        if not self.directory.add_attempt(record):
            raise UserError(f"attempt {number} of run {self.directory.id} was begun by another driver; leave it to it")
        say(f"attempt {number} of run {self.directory.id} begins")
        with Child(self._command(), grace_seconds=grace_seconds(self.machines)) as child:
            while not child.wait(SECONDS_BETWEEN_LOOKS):
                self._look(child)
        outcome, reason = self._verdict(child)
        progressed = landmarks(self.directory.home, self.start.artifacts) != before
        update = {"ended": now(), "outcome": outcome, "reason": reason, "exit_code": child.exit_code}
        record = record.model_copy(update=update | {"progressed": progressed})
        self.fence.check()
        self.directory.end_attempt(record)
        self.directory.publish_log(self.start.number)
        return record

    def _command(self) -> list[str]:
        address = ["--ray-address", self.ray_address] if self.ray_address else []
        where = ["--store", self.directory.store, "--work-dir", self.machines.storage.work_dir]
        return [sys.executable, "-P", "-m", "pipeline.cli", "attempt", *where, *address, self.directory.id]

    def _look(self, child: Child) -> None:
        """Pass on what was asked for since the last look."""
        self.fence.check()
        for name, request in self.directory.requests().items():
            if request.what == "stop" and not self.stopped:
                self.stopped = True
                say(f"stop: asked for by {request.user} on {request.host}")
                child.send(signal.SIGTERM)
            elif request.what == "checkpoint":
                child.send(signal.SIGUSR2)
            self.directory.heard(name)
        if time.monotonic() > self.deadline and not self.out_of_time:
            self.out_of_time = True
            say(f"the time limit of {self.machines.time_limit_minutes:g} minutes is over; saving a checkpoint")
            child.send(signal.SIGTERM)
        if self.signalled is not None:
            child.send_once(signal.SIGTERM)

    def _verdict(self, child: Child) -> tuple[Outcome, str]:
        outcome, reason = child.outcome(), child.reason()
        if outcome == "preempted" and self.stopped:
            return "stopped", reason
        if outcome == "preempted" and self.out_of_time:
            return "time_limit", f"the time limit of {self.machines.time_limit_minutes:g} minutes is over; {reason}"
        return outcome, reason

    def _sleep(self, seconds: float) -> bool:
        """Wait before the next attempt; False if the run is to end meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.signalled is None:
            for name, request in self.directory.requests().items():
                self.directory.heard(name)
                if request.what == "stop":
                    return False
            time.sleep(min(SECONDS_BETWEEN_LOOKS, seconds))
        return self.signalled is None

    def _close_lost(self) -> None:
        """Write down that attempts whose driver died with them are over."""
        for attempt in self.directory.attempts():
            if attempt.outcome is None:
                reason = f"its driver, process {attempt.pid} on {attempt.host}, was never heard of again"
                lost = {"ended": now(), "outcome": "lost", "reason": reason}
                self.directory.end_attempt(attempt.model_copy(update=lost))

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signalled = number


def drive(directory: RunDirectory, start: StartRecord, machines: ClusterConfig, *, ray_address: str | None) -> int:
    """Make attempts of a run until it is done; the exit code. Raises LeaseHeld if another driver is at it."""
    name = lease_name(directory.id)
    with lease(directory.home, name, step=directory.id, take_over=start.take_over) as fence:
        return Driver(directory, start, machines, fence, ray_address).run()


def lease_name(run_id: str) -> str:
    """The lease that the driver of a run holds."""
    return f"run-{run_id}"


def grace_seconds(machines: ClusterConfig) -> float:
    """The longest that any pool gives a training to save."""
    return max(pool.grace_seconds for pool in machines.pools.values())


def _seconds(attempt: AttemptRecord) -> float:
    return (attempt.ended - attempt.began).total_seconds() if attempt.ended else 0.0


def _words(attempt: AttemptRecord) -> str:
    return attempt.reason or str(attempt.outcome)
