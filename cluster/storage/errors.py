"""Translates what the operating system or a store refused into the user's errors.

This is the one place where an OSError becomes a UserError (the user can fix it: a full disk, a missing permission) or
an InfrastructureError (it is transient: a stale handle, an I/O error, a server that is away), which is retried.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from cluster.host.retry import backoff_waits, fixed_waits, retry
from configs.base import InfrastructureError, LeaseLost, UserError
from configs.text import one_line

FIRST_WAIT_SECONDS = 1.0
"""Before the second try of a request to a store; doubled before each further one."""

SECONDS_BETWEEN_CALLS = 15.0
PATIENCE_SECONDS = 600.0
"""How long a store may be away at the end of a long work before that counts as failed."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISPLACED = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST})  # EEXIST: what `create` is answered
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG})
_USER_ERRNOS = _FULL | _FORBIDDEN | _MISPLACED | _REFUSED | {errno.ENOENT, errno.EMFILE}
"""Waiting fixes none of these. All others are transient: ESTALE after the failover of an NFS server, EIO of an evicted
Lustre client, ETIMEDOUT, ECONNRESET, EAGAIN..."""

FIX_COMMANDS: Mapping[int, str] = {
    errno.EACCES: "chown or chmod {path} for this user",
    errno.EPERM: "chown or chmod {path} for this user",
    errno.EROFS: "mount -o remount,rw, as root, what {path} is on",
    errno.ENOSPC: "remove what is not needed from what {path} is on",
    errno.EDQUOT: "remove files of this user, or have the quota raised (quota -s)",
    errno.ESTALE: "mount what {path} is on anew (a stale NFS handle)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What the doctor advises, by what the system says of a file at `path`."""

_OWN_MODULES = ("builtins", "cluster", "configs", "pipeline", "pydantic", "pydantic_core")

P = ParamSpec("P")
T = TypeVar("T")


def is_transient(error: Exception) -> bool:
    """Return whether a failed request may succeed when it is made again, with nothing fixed by the user."""
    if isinstance(error, OSError):
        return _code(error) not in _USER_ERRNOS
    return _of_a_library(error) and "Credential" not in type(error).__name__


def error_class(error: Exception) -> type[UserError]:
    """Return InfrastructureError for what is transient, else UserError.

    UserError too for an OSError without errno, which a library made, and for what is no OSError.
    """
    if not isinstance(error, OSError):
        return UserError
    known = error.errno is not None or isinstance(error, (TimeoutError, ConnectionError))
    return InfrastructureError if known and is_transient(error) else UserError


def explain_os_error(error: OSError, *, where: str, elsewhere: str) -> UserError:
    """Return the sentence for what the system refused at `where`, such as `step 'clean'`, as error_class has it.

    `elsewhere` is the way out: how to have the files on another disk.
    """
    file = f" ({error.filename})" if error.filename else ""
    code, said = _code(error), error.strerror or str(error)
    if code in _FULL:
        return UserError(
            f"{where}: the disk is full{file}; free space, or {elsewhere}, and run this again: what is finished is kept"
        )
    if code in _FORBIDDEN:
        return UserError(f"{where}: no permission{file}: {said}; change it, or {elsewhere}")
    if code == errno.ENOENT:
        return UserError(f"{where}: a file is missing{file}; delete the artifact it belongs to, to have it made again")
    if code == errno.EMFILE:
        return UserError(f"{where}: too many open files{file}; raise the limit (ulimit -n) and run this again")
    return error_class(error)(f"{where}: the system refused{file}: {said}; run this again once it is mended")


@contextmanager
def ignore_transient() -> Iterator[None]:
    """Leave the block when a file system refuses something that may pass: for what is asked again soon."""
    try:
        yield
    except OSError as error:
        if not is_transient(error):
            raise


def wait_until_answers(path: Path, *, notify: Callable[[str], None]) -> None:
    """Wait, for PATIENCE_SECONDS, while the file system that `path` is on refuses what may pass.

    Raises InfrastructureError if it still does then.
    """

    def ask() -> None:
        try:
            path.stat()
        except OSError as error:
            if is_transient(error):
                raise InfrastructureError(f"{path} cannot be reached ({error.strerror})") from error

    retry_through_outage(ask, notify=notify, seconds_between=1.0)


@contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Raise what a store refused during the block as a UserError, or as an InfrastructureError if it may pass.

    Takes what the system raises, and what the library of a protocol (botocore, aiohttp) does.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (explained := _explain_store_error(where, error)) is None:
            raise
        raise explained from error


def retry_request(num_tries: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a request to a store up to `num_tries` times, with exponential back-off, while its failures may pass."""
    waits = backoff_waits(num_tries - 1, first=FIRST_WAIT_SECONDS)
    return retry(lambda: call(*args, **kwargs), waits=waits, is_transient=is_transient)


def is_outage(error: Exception) -> bool:
    """Return whether machines, or a file system, have failed, so that the same may succeed later.

    A lost lease is for good.
    """
    if isinstance(error, OSError):
        return error_class(error) is InfrastructureError
    return isinstance(error, InfrastructureError) and not isinstance(error, LeaseLost)


def retry_through_outage(
    call: Callable[[], T], *, notify: Callable[[str], None], seconds_between: float = SECONDS_BETWEEN_CALLS
) -> T:
    """Call again, for PATIENCE_SECONDS, while machines fail; the user is notified once. Not after LeaseLost."""
    notified: list[str] = []

    def notify_once(error: Exception) -> None:
        if not notified:
            notified.append(f"{error}; tried again for {PATIENCE_SECONDS / 60:g} minutes")
            notify(notified[0])

    waits = fixed_waits(seconds_between, for_seconds=PATIENCE_SECONDS)
    return retry(call, waits=waits, is_transient=is_outage, on_retry=notify_once)


def _code(error: OSError) -> int | None:
    """Return the errno; of an exception that a library raised without one, as fsspec does, the errno of its class."""
    if error.errno is not None and type(error).__module__ == "builtins":  # in others, such as ssl's, it is no errno
        return error.errno
    return next((code for kind, code in _CODES_BY_CLASS.items() if isinstance(error, kind)), None)


_CODES_BY_CLASS: Mapping[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


def _of_a_library(error: Exception) -> bool:
    """Return whether a protocol's library raised it: botocore, aiohttp and others raise what is no OSError."""
    return type(error).__module__.split(".")[0] not in _OWN_MODULES


def _explain_store_error(where: str, error: Exception) -> UserError | None:
    text = one_line(error) or type(error).__name__
    code = _code(error) if isinstance(error, OSError) else None
    if code in _FULL:
        return UserError(f"{where}: the disk is full; free space, and run this again: what is finished is kept")
    if code in _FORBIDDEN:
        return UserError(f"{where}: no permission ({text}); give yourself leave to read and write there")
    if code == errno.ENOENT:
        return UserError(f"{where}: there is no such bucket or directory ({text}); make it, or name another store")
    if code in _MISPLACED:
        return UserError(f"{where}: a file stands where a directory should be, or the reverse ({text}); move it away")
    if code == errno.EMFILE:
        return UserError(f"{where}: too many open files ({text}); raise the limit (ulimit -n) and run this again")
    if "Credential" in type(error).__name__:
        return UserError(
            f"{where}: no credentials ({text}); set them in the environment, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for s3://"
        )
    if code in _REFUSED:
        return UserError(f"{where}: the store refused ({text}); see that its name and the credentials are right")
    if isinstance(error, OSError) or _of_a_library(error):
        return InfrastructureError(f"{where} does not answer as it should ({text}); run this again once it does")
    return None
