"""What a store refused, in one sentence; and which refusals may pass when one waits."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from cluster.leases.fence import LeaseLost
from configs.base import InfrastructureError, UserError

FIRST_WAIT_SECONDS = 1.0
"""Before the second try; doubled before each further one."""

SECONDS_BETWEEN_CALLS = 15.0
PATIENCE_SECONDS = 600.0
"""How long a store may be away at the end of a long work before that counts as failed."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_CODES = (*_FULL, errno.EINVAL, errno.ENOSYS, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTEMPTY)
_OURS = ("builtins", "cluster", "configs", "pipeline", "pydantic", "pydantic_core")

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Raise what the system or a protocol's library refused as a UserError, or InfrastructureError if it may pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (told := _explain(where, error)) is None:
            raise
        raise told from error


def tried(num_tries: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The call's answer; what may pass is tried again, with twice the wait each time."""
    for number in range(num_tries - 1):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(FIRST_WAIT_SECONDS * 2**number)
    return call(*args, **kwargs)


def patiently(call: Callable[[], T], *, tell: Callable[[str], None]) -> T:
    """The call's answer; for PATIENCE_SECONDS it is called again while machines fail. Not after LeaseLost."""
    deadline, told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            return call()
        except LeaseLost:
            raise
        except InfrastructureError as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                tell(f"{error}; tried again for {PATIENCE_SECONDS / 60:g} minutes")
            told = True
            time.sleep(SECONDS_BETWEEN_CALLS)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING) and error.errno not in _LASTING_CODES
    return _of_a_library(error) and "Credential" not in type(error).__name__


def _of_a_library(error: Exception) -> bool:
    """botocore, aiohttp and others raise what is no OSError, for what is no mistake of ours."""
    return type(error).__module__.split(".")[0] not in _OURS


def _explain(where: str, error: Exception) -> UserError | None:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, OSError) and error.errno in _FULL:
        return UserError(f"{where}: the disk is full; free space, and run this again: what is finished is kept")
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return UserError(f"{where}: no permission ({text}); give yourself leave to read and write there")
    if isinstance(error, FileNotFoundError):
        return UserError(f"{where}: there is no such bucket or directory ({text}); make it, or name another store")
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return UserError(f"{where}: a file stands where a directory should be, or the reverse ({text}); move it away")
    if "Credential" in type(error).__name__:
        return UserError(
            f"{where}: no credentials ({text}); set them in the environment, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for s3://"
        )
    if isinstance(error, OSError) and error.errno == errno.EINVAL:
        return UserError(f"{where}: the store refused ({text}); see that its name and the credentials are right")
    if isinstance(error, OSError) or _of_a_library(error):
        return InfrastructureError(f"{where} does not answer as it should ({text}); run this again once it does")
    return None
