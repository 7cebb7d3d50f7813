"""Advisory locks on files (flock), which the system drops when their holder dies, however it dies."""

import errno
import fcntl
from typing import IO, Any

from cluster.storage.errors import error_class
from configs.base import UserError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def lock_file(file: IO[Any], *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file, until it is closed or unlocked, alone or with others who share it.

    Raises BlockingIOError if another process holds it and `wait` is not set, and UserError if the file system cannot
    lock across the hosts that share it.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        refused = UserError if error.errno in _NO_LOCKS else error_class(error)
        raise refused(
            f"the file system cannot lock {file.name} ({error.strerror}); mount it with locks (flock), or give another "
            "directory: store, or for a URL storage.work_dir in the cluster file (--work-dir)"
        ) from error


def unlock_file(file: IO[Any]) -> None:
    """Unlock a file at once: closing it alone would leave the lock to a child that was forked meanwhile."""
    fcntl.flock(file, fcntl.LOCK_UN)
