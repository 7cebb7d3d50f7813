"""Whether a driver makes another attempt after one that has ended, and after how long. Pure."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.host.retry import backoff_seconds
from configs.base import RESUME_ME, ConfigError, InfrastructureError, OutOfMemory, StartUpError, UserError
from configs.cluster import RetriesConfig

Outcome = Literal[
    "finished", "stopped", "preempted", "time_limit", "user", "memory", "bug", "start_up", "infrastructure", "lost"
]
"""How an attempt ended. `lost`: its driver died with it."""

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
    """How an attempt ended, as far as what follows depends on it."""

    outcome: Outcome
    progressed: bool
    """Whether it left an artifact or a checkpoint that the next one goes on from."""


def classify_exit(exit_code: int, *, explained: bool) -> Outcome:
    """Return how an attempt ended, by its process's exit code, which is negative for a signal.

    `explained` is whether the process said why in a sentence: a user's mistake does, and what does not is a bug.
    """
    if exit_code < 0:
        return "infrastructure"
    outcome = _BY_EXIT_CODE.get(exit_code, "bug")
    return "bug" if outcome == "user" and not explained else outcome


def wait_before_next(retries: RetriesConfig, ended: Sequence[Ended]) -> float | None:
    """Return the seconds of back-off before the next attempt; None if there is to be none.

    `ended` are the attempts so far, in order. Each kind of outcome has its own budget of retries in a row, which an
    attempt that has made progress renews.
    """
    budgets = {
        "infrastructure": retries.infrastructure,
        "lost": retries.infrastructure,
        "preempted": retries.preemption,
        "start_up": retries.start_up,
        "bug": retries.unknown,
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
    return backoff_seconds(in_a_row, first=retries.backoff_seconds, most=retries.max_backoff_seconds)
