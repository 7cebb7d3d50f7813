"""Which checkpoints stay on disk, and how a reader keeps one from being deleted."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.leases.flock import lock_file
from configs.pools import RetentionConfig
from training.checkpoint.choice import best_step

_READ_LOCKS = ".leases"
"""Directory beside the checkpoints with the lock files of their readers."""


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep a checkpoint from being deleted while it is read, by a shared file lock beside it.

    In a store that cannot be written there is no lock, and nobody deletes from it.
    """
    try:
        path = directory.parent / _READ_LOCKS / directory.name
        path.parent.mkdir(exist_ok=True)
        file = path.open("w")
    except OSError:  # a read-only store: nobody deletes from it
        yield
        return
    with file:
        lock_file(file, shared=True, wait=True)
        yield


@contextmanager
def unless_held(directory: Path) -> Iterator[bool]:
    """Yield whether the checkpoint may be deleted during the block: nobody holds it, and nobody can meanwhile."""
    path = directory.parent / _READ_LOCKS / directory.name
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            lock_file(file)
        except BlockingIOError:
            yield False
            return
        yield True
        with suppress(FileNotFoundError):
            path.unlink()


def steps_to_keep(
    losses: Mapping[int, float],
    rule: RetentionConfig,
    *,
    is_own: Callable[[int], bool],
    sound_step: int,
    validation_losses: Mapping[int, float],
) -> set[int]:
    """Return the steps whose checkpoints stay, given the training loss of each checkpoint by step.

    The one of the lowest validation loss stays always; `rule.best` counts by that loss where there is one.
    `is_own` says whether the recipe asks for a checkpoint after a step. Another, such as one that a signal asked for,
    stays only while it is the newest of all, and the rule does not count it. The newest of the recipe's own up to
    `sound_step`, after which training may have become unstable, stays for a roll-back, which could otherwise depend on
    the rule.
    """
    own = sorted(filter(is_own, losses), reverse=True)
    stay = {max(losses)} | set(own[: rule.newest]) if losses else set()
    if rule.every_steps is not None:
        stay |= {step for step in own if step % rule.every_steps == 0}
    if (best := best_step(validation_losses)) is not None:
        stay.add(best)
    by = validation_losses or losses
    ranked = sorted((step for step in own if math.isfinite(by.get(step, math.nan))), key=lambda step: (by[step], step))
    return stay | set(ranked[: rule.best]) | set([step for step in own if step <= sound_step][:1])
