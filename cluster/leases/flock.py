"""Advisory locks on files (flock), which the system drops when their holder dies, however it dies."""

import errno
import fcntl
from pathlib import Path
from typing import IO, Any

from cluster.storage.errors import error_class
from configs.base import UserError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def lock_file(file: IO[Any], *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file, until it is closed or unlocked, alone or with others who share it.

    Raises BlockingIOError if another process holds it and `wait` is not set, and another OSError if the file system
    refuses.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)


def unlock_file(file: IO[Any]) -> None:
    """Unlock a file at once: closing it alone would leave the lock to a child that was forked meanwhile."""
    fcntl.flock(file, fcntl.LOCK_UN)


def explain_lock_error(path: Path, error: OSError) -> UserError:
    """Return the sentence for a file system that refuses a lock; InfrastructureError if that is transient."""
    refused = UserError if error.errno in _NO_LOCKS else error_class(error)
    return refused(
        f"the file system cannot lock {path} ({error.strerror}); mount it with locks (flock), or give another "
        "directory: store, or for a URL storage.work_dir in the cluster file (--work-dir)"
    )
