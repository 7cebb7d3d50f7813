"""The driver of a run: it makes attempts one after another, each a process of its own, and writes down how each ended.

The driver is light and only watches, so that what kills an attempt does not kill it. If it is killed itself, `concord
resume` starts another one, on this machine or elsewhere: all that a driver knows is in the run's directory.
"""

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import TypeVar

from cluster.host.console import print_line
from cluster.host.retry import backoff_waits, retry
from cluster.leases.fence import LEASES, Fence
from cluster.leases.lease import store_lease
from cluster.storage.errors import ignore_transient, is_outage
from configs.base import RESUME_ME, InfrastructureError, LeaseLost, UserError
from configs.cluster import ClusterConfig, RetriesConfig
from pipeline.runs.attempt import AttemptProcess
from pipeline.runs.directory import AttemptRecord, RequestRecord, RunDirectory, StartRecord, lease_name, now
from pipeline.runs.retry import Ended, Outcome, wait_before_next
from pipeline.runs.state import are_all_finished, list_finished
from pipeline.store.provenance import code_version, package_versions

T = TypeVar("T")

SECONDS_BETWEEN_CHECKS = 0.5
"""How often a driver looks for requests, signals and the end of its attempt."""

SECONDS_BETWEEN_LOGS = 30.0
"""How often a driver puts its log into a store that is a URL."""

SECONDS_OF_SILENCE = 15.0
"""How long a store that did not answer is left alone, and the longest wait between two tries."""


class StoreRetries:
    """A driver's calls to its store: one that does not answer for a while is not to end the run."""

    def __init__(self, retries: RetriesConfig) -> None:
        self._retries = retries
        self._silent_since: float | None = None

    def call_unless_silent(self, call: Callable[[], object]) -> None:
        """Make a call that can wait: it is left out while the store is left alone, and when the store fails it."""
        if self._silent_since is not None and time.monotonic() < self._silent_since + SECONDS_OF_SILENCE:
            return
        try:
            call()
            self._silent_since = None
        except LeaseLost:
            raise
        except (InfrastructureError, OSError) as error:
            if not is_outage(error):
                raise
            if self._silent_since is None:
                print_line(f"{error}; the attempt goes on, and requests are heard when the store answers again")
            self._silent_since = time.monotonic()

    def call(self, call: Callable[[], T]) -> T:
        """Make a call that must succeed, as often as the retries for infrastructure allow."""
        return retry(
            call,
            waits=backoff_waits(
                self._retries.infrastructure, first=self._retries.backoff_seconds, most=SECONDS_OF_SILENCE
            ),
            is_transient=is_outage,
            on_retry=lambda error: print_line(f"{error}; trying again"),
        )


@dataclass
class Driver:
    """What a driver knows while it works."""

    directory: RunDirectory
    start: StartRecord
    machines: ClusterConfig
    fence: Fence
    ray_address: str | None
    signalled: int | None = None
    """The number of the signal that asked this driver to end."""

    stopped: bool = False
    """Whether the user has asked the run to stop."""

    out_of_time: bool = False
    deadline: float = math.inf
    """When the time limit is over, by the monotonic clock."""

    last_heartbeat: datetime | None = None
    """The last heartbeat of the driver before this one."""

    published: float = 0.0
    """When the log was last put into the store, by the monotonic clock."""

    def __post_init__(self) -> None:
        self.retries = StoreRetries(self.machines.retries)

    def run(self) -> int:
        """Make attempts until one has finished, or there is to be no further one; return the driver's exit code."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note_signal)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # attempts inherit that, and handle it while they train
        self._close_lost_attempts()
        self.retries.call(lambda: self.directory.drop_requests(self.start.time))
        if (limit := self.machines.time_limit_minutes) is not None:
            self.deadline = time.monotonic() + limit * 60 - spent_seconds(self._attempts())
        while True:
            attempt = self._make_attempt(len(self._attempts()) + 1)
            if attempt.outcome in ("finished", "stopped"):
                return 0
            if self.signalled is not None and not self.out_of_time:
                return RESUME_ME
            wait = wait_before_next(self.machines.retries, self._ended_attempts())
            if wait is None:
                # Not RESUME_ME: a scheduler would start what has just been given up.
                code = attempt.exit_code or 1
                return code if code > 0 and code != RESUME_ME else 1
            print_line(
                f"attempt {attempt.number} ended ({attempt.reason or attempt.outcome}); the next begins in {wait:g} s"
            )
            if not self._wait_unless_ended(wait):
                if self.signalled is not None:
                    return RESUME_ME
                stopped = attempt.model_copy(update={"outcome": "stopped"})
                self._write(partial(self.directory.end_attempt, stopped))
                return 0

    def _ended_attempts(self) -> list[Ended]:
        """Return how the attempts of this start ended: a scheduler that runs the job again does not renew budgets."""
        of_start = [attempt for attempt in self._attempts() if attempt.start == self.start.number]
        return [Ended(attempt.outcome, attempt.progressed) for attempt in of_start if attempt.outcome is not None]

    def _make_attempt(self, number: int) -> AttemptRecord:
        before = self._list_finished()
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
        print_line(f"attempt {number} of run {self.directory.id} begins")
        with AttemptProcess(self._command(number), grace_seconds=grace_seconds(self.machines)) as process:
            while not process.wait(SECONDS_BETWEEN_CHECKS):
                self._check(process)
        outcome, reason = self._classify_end(process)
        progressed = self._list_finished() != before
        update = {"ended": now(), "outcome": outcome, "reason": reason, "exit_code": process.exit_code}
        record = record.model_copy(update=update | {"progressed": progressed})
        self._write(lambda: self.directory.end_attempt(record))
        self._write(lambda: self.directory.publish_log(self.start.number))
        return record

    def _attempts(self) -> list[AttemptRecord]:
        return self.retries.call(self.directory.attempts)

    def _list_finished(self) -> frozenset[str]:
        return self.retries.call(lambda: list_finished(self.directory.home, self.start.artifacts))

    def _write(self, write: Callable[[], T]) -> T:
        """Write into the run's directory, if this driver still holds the run's lease."""

        def fenced() -> T:
            self.fence.check_remote()
            return write()

        return self.retries.call(fenced)

    def _command(self, number: int) -> list[str]:
        options = ["--store", self.directory.store, "--work-dir", self.machines.storage.work_dir]
        options += ["--start", str(self.start.number)]
        options += ["--ray-address", self.ray_address] if self.ray_address else []
        options += ["--take-over"] if self.start.take_over and self._is_first(number) else []
        return [sys.executable, "-P", "-m", "pipeline.cli", "attempt", *options, self.directory.id]

    def _is_first(self, number: int) -> bool:
        """Return whether an attempt is the first of this start: only that one takes leases over."""
        return not any(one.start == self.start.number and one.number < number for one in self._attempts())

    def _check(self, process: AttemptProcess) -> None:
        """Pass on to the attempt what was asked for since the last check. Raises LeaseLost."""
        self.fence.poll()
        for request in self._take_requests():
            if request.what == "stop":
                self.stopped = True
                print_line(f"stop: asked for by {request.user} on {request.host}")
            else:
                process.send(signal.SIGUSR2)
        if time.monotonic() > self.deadline and not self.out_of_time:
            self.out_of_time = True
            print_line(f"the time limit of {self.machines.time_limit_minutes:g} minutes is over; saving a checkpoint")
        if self.stopped or self.out_of_time or self.signalled is not None:
            process.end()
        if time.monotonic() > self.published + SECONDS_BETWEEN_LOGS:
            self.published = time.monotonic()
            self.retries.call_unless_silent(lambda: self.directory.publish_log(self.start.number))

    def _take_requests(self) -> list[RequestRecord]:
        """Return the requests made since the last check, and delete them; none while the store does not answer."""
        found: list[RequestRecord] = []

        def take() -> None:
            for name, request in self.directory.requests().items():
                found.append(request)
                self.directory.delete_request(name)

        self.retries.call_unless_silent(take)
        return found

    def _classify_end(self, process: AttemptProcess) -> tuple[Outcome, str]:
        """Return how the attempt ended, and the reason."""
        outcome, reason = process.outcome(), process.reason()
        if outcome == "preempted" and self.retries.call(
            lambda: are_all_finished(self.directory.home, self.start.artifacts)
        ):
            return "finished", ""  # the end came before the signal
        if outcome != "finished" and self.stopped:
            return "stopped", reason
        if outcome != "finished" and self.out_of_time:
            return "time_limit", f"the time limit of {self.machines.time_limit_minutes:g} minutes is over; {reason}"
        return outcome, reason

    def _wait_unless_ended(self, seconds: float) -> bool:
        """Wait before the next attempt; return False at once if the run is asked to end meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.signalled is None:
            if any(request.what == "stop" for request in self._take_requests()):
                return False
            time.sleep(min(SECONDS_BETWEEN_CHECKS, seconds))
        return self.signalled is None

    def _close_lost_attempts(self) -> None:
        """Write down that the attempts whose driver died with them are lost."""
        for attempt in self._attempts():
            if attempt.outcome is None:
                reason = f"its driver, process {attempt.pid} on {attempt.host}, was never heard of again"
                ended = max(attempt.began, self.last_heartbeat or attempt.began)
                lost = attempt.model_copy(update={"ended": ended, "outcome": "lost", "reason": reason})
                self._write(partial(self.directory.end_attempt, lost))

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signalled = number


def drive_run(directory: RunDirectory, start: StartRecord, machines: ClusterConfig, *, ray_address: str | None) -> int:
    """Make attempts of a run until it is done, and return the driver's exit code.

    Raises LeaseHeld if another driver holds the run, and UserError if this start was followed by another one.
    """
    if (latest := directory.starts()[-1].number) != start.number:
        raise UserError(
            f"start {start.number} of run {directory.id} was followed by start {latest}, which has the run now; leave "
            "it to that one"
        )
    name, last_heartbeat = lease_name(directory.id), _last_heartbeat(directory)
    take_over = start.take_over and not any(attempt.start == start.number for attempt in directory.attempts())
    with store_lease(
        directory.remote, directory.home, name, what=f"run {directory.id!r}", take_over=take_over
    ) as fence:
        return Driver(directory, start, machines, fence, ray_address, last_heartbeat=last_heartbeat).run()


def grace_seconds(machines: ClusterConfig) -> float:
    """Return the longest time that a pool of the cluster gives a training to save."""
    return max(pool.grace_seconds for pool in machines.pools.values())


def spent_seconds(attempts: Sequence[AttemptRecord]) -> float:
    """Return the time that the attempts which have ended took together."""
    return sum((one.ended - one.began).total_seconds() for one in attempts if one.ended)


def _last_heartbeat(directory: RunDirectory) -> datetime | None:
    """Return the time of the last driver's last heartbeat: its lease was touched then."""
    path = directory.home / LEASES / lease_name(directory.id)
    with suppress(FileNotFoundError), ignore_transient():
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return None
