"""A thread that keeps a mirror of unfinished work while it is made."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.leases.fence import LeaseLost
from cluster.storage.mirror import Mirror
from configs.base import UserError

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_AFTER_FAILURE = 15.0


class _Ended(Exception):
    """The work has ended, and the thread is to end what it does."""


@contextmanager
def mirrored(mirror: Mirror, *, check: Callable[[], None], tell: Callable[[str], None]) -> Iterator[None]:
    """Keep the mirror up to date during the block, and bring it up to date when the block ends in an error.

    What the store refuses is told, and tried again: the work goes on. `check` as in Mirror.update; after LeaseLost
    nothing more is sent. Nor is it when the block ends well, because what was made is now sent whole.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(mirror, ended, check, tell), name="mirror", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        _end(thread, ended)
        _try(mirror, check, tell)
        raise
    finally:
        _end(thread, ended)


def _end(thread: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    thread.join()


def _follow(mirror: Mirror, ended: threading.Event, check: Callable[[], None], tell: Callable[[str], None]) -> None:
    def go_on() -> None:
        if ended.is_set():
            raise _Ended
        check()

    sent: dict[str, bytes] = {}
    wait, told = SECONDS_BETWEEN_LOOKS, ""
    while not ended.wait(wait):
        wait = SECONDS_BETWEEN_LOOKS
        try:
            if (here := mirror.here()) != sent:
                mirror.update(go_on)
                sent, told = here, ""
        except _Ended:
            return
        except LeaseLost as error:
            return tell(_failure(error))
        except (UserError, OSError) as error:
            wait = SECONDS_AFTER_FAILURE
            if (text := _failure(error)) != told:
                tell(text)
                told = text


def _try(mirror: Mirror, check: Callable[[], None], tell: Callable[[str], None]) -> None:
    try:
        mirror.update(check)
        if mirror.here():
            mirror.send_growing(check)
    except (UserError, OSError) as error:  # the error that ended the work is the one to raise
        tell(_failure(error))


def _failure(error: Exception) -> str:
    return f"checkpoints are not copied to the store for now: {error}"
