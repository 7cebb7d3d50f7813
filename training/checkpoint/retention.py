"""Which checkpoints stay on disk, and the right of a reader to keep one from being deleted."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from configs.pools import RetentionConfig

_LEASES = ".leases"


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep a checkpoint from being deleted while it is read. Where nothing can be written, it is read without.

    A shared file lock beside the checkpoint, which the system drops when its holder dies.
    """
    try:
        path = directory.parent / _LEASES / directory.name
        path.parent.mkdir(exist_ok=True)
        file = path.open("w")
    except OSError:  # a read-only store: nobody deletes from it
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def unless_held(directory: Path) -> Iterator[bool]:
    """Whether the checkpoint may be deleted during the block: nobody holds it, and nobody can meanwhile."""
    path = directory.parent / _LEASES / directory.name
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        with suppress(FileNotFoundError):
            path.unlink()


def kept(losses: Mapping[int, float], rule: RetentionConfig) -> set[int]:
    """The steps whose checkpoints stay, of those there are, with the training loss of each."""
    newest_first = sorted(losses, reverse=True)
    stay = set(newest_first[: rule.newest])
    if rule.every_steps is not None:
        stay |= {step for step in losses if step % rule.every_steps == 0}
    ranked = sorted((step for step in losses if losses[step] == losses[step]), key=lambda step: (losses[step], -step))
    return stay | set(ranked[: rule.best])
