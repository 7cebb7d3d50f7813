"""When a run that has ended is begun again by itself, and after how long. Pure."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from configs.base import ConfigError, InfrastructureError, OutOfMemory, StartUpError, UserError
from configs.cluster import RetriesConfig

Outcome = Literal[
    "finished", "stopped", "preempted", "time_limit", "user", "memory", "bug", "start_up", "infrastructure", "lost"
]
"""How an attempt ended. `lost`: its driver was never heard of again."""

RESUME_ME = 75
"""Exit code of a run that stopped for others' sake and goes on when started again: sysexits' EX_TEMPFAIL."""

_BY_EXIT_CODE: dict[int, Outcome] = {
    0: "finished",
    UserError.exit_code: "user",
    ConfigError.exit_code: "user",
    128 + signal.SIGINT: "stopped",
    StartUpError.exit_code: "start_up",
    InfrastructureError.exit_code: "infrastructure",
    OutOfMemory.exit_code: "memory",
    RESUME_ME: "preempted",
}


@dataclass(frozen=True)
class Ended:
    """How an attempt ended, as far as the wait for the next one depends on it."""

    outcome: Outcome
    progressed: bool
    """Whether it has left something behind that the next one goes on from."""


def outcome_of(exit_code: int, *, explained: bool) -> Outcome:
    """From the exit code of an attempt's process, negative for a signal. `explained`: it said why in a sentence."""
    if exit_code < 0:
        return "infrastructure"
    outcome = _BY_EXIT_CODE.get(exit_code, "bug")
    return "bug" if outcome == "user" and not explained else outcome


def wait_before_next(retries: RetriesConfig, ended: Sequence[Ended]) -> float | None:
    """Seconds to wait before the next attempt after those that have ended, in order; None: no further one.

    Each class has a budget of its own, which an attempt that got somewhere fills up again.
    """
    budgets = {
        "infrastructure": retries.infrastructure,
        "lost": retries.infrastructure,
        "preempted": retries.preemption,
        "start_up": retries.start_up,
    }
    last = ended[-1]
    if last.outcome not in budgets:
        return None
    in_a_row = 0
    for attempt in reversed(ended):
        if attempt.outcome == last.outcome:
            in_a_row += 1
        if attempt.progressed:
            break
    if in_a_row > budgets[last.outcome]:
        return None
    return min(retries.max_backoff_seconds, retries.backoff_seconds * 2.0 ** min(in_a_row - 1, 60))
