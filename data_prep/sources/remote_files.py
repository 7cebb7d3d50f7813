"""Source files on this machine or behind a URL of any protocol that fsspec knows: list, open, version."""

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from cluster.storage.errors import is_transient
from configs.base import InfrastructureError, UserError
from configs.text import one_line

_VERSIONS = ("md5Hash", "content_hash", "checksum", "ETag", "etag", "generation", "LastModified", "mtime", "created")
"""What protocols say of a file that changes when its bytes do, the surest first: what changes with them alone."""

_MAY_PASS = (408, 425, 429)
"""Answers of HTTP to which asking again later may help, beside those of 500 and above."""


def is_url(name: str) -> bool:
    """Return whether a name is that of a file behind a URL."""
    return "://" in name


def open_file(name: str) -> BinaryIO:
    """Open a file to read its bytes. Raises OSError, also for what a protocol's library raises, then and as it is read.

    It can be sought in, unless its server cannot.
    """
    if not is_url(name):
        return open(name, "rb")
    with _as_os_errors():
        files, path = _file_system(name)
        return cast(BinaryIO, _RemoteFile(files.open(path, "rb"), files))


class _RemoteFile:
    """A file behind a URL, whose protocol's own exceptions are OSErrors."""

    def __init__(self, file: Any, files: Any) -> None:
        self._file, self._files = file, files  # a file system that nobody holds closes what is read from it

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end."""
        with _as_os_errors():
            data: bytes = self._file.read(size)
        return data

    def readline(self, size: int = -1) -> bytes:
        """Return a line, or so many bytes of it."""
        with _as_os_errors():
            data: bytes = self._file.readline(size)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        with _as_os_errors():
            found: int = self._file.seek(place, whence)
        return found

    def tell(self) -> int:
        """Return the place."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._file.closed)

    def __enter__(self) -> "_RemoteFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        kind = OSError if isinstance(error, (ValueError, TypeError, NotImplementedError)) else ConnectionError
        raise kind(f"{type(error).__name__}: {one_line(error)}") from error


Info = Mapping[str, Any]
"""What a protocol says of a file, in the keys of fsspec; empty of one on this machine."""


def list_matches(source: str, pattern: str) -> dict[str, Info]:
    """Return the names that a pattern matches, or the one of that very name. Raises UserError if no server answers."""
    if not is_url(pattern):
        names = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        return {name: {} for name in names}
    try:
        files, path = _file_system(pattern)
        info = _find(files, path)
        if info is not None or not any(character in path for character in "*?["):
            inner = pattern.partition("::")[2]
            version = _chained_version(inner) if inner else {}
            return {pattern: {**info, **version}} if info is not None and info["type"] == "file" else {}
        found: dict[str, Info] = files.glob(path, detail=True)
        _, chain, inner = pattern.partition("::")  # of what is in an archive, such as zip://*.txt::s3://bucket/a.zip
        version = _chained_version(inner) if chain else {}
        return {
            f"{files.unstrip_protocol(name)}{chain}{inner}": {**one, **version}
            for name, one in found.items()
            if one["type"] == "file"
        }
    except UserError:
        raise
    except Exception as error:  # whatever HTTP, botocore and others raise
        raise _error_class(error)(
            f"source '{source}': {pattern} cannot be listed ({type(error).__name__}: {one_line(error)}); check the "
            "URL, its credentials and the network"
        ) from error


def _find(files: Any, path: str) -> Info | None:
    """Return what is known of a file; None if there is none. That a server is out of reach is an error."""
    try:
        info: Info = files.info(path)
    except FileNotFoundError as error:  # which the protocol http says of any failure
        cause = error.__cause__
        if isinstance(cause, Exception) and getattr(cause, "status", 404) not in (404, 410):
            raise cause from None
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from None
        return None
    return info


def _chained_version(inner: str) -> dict[str, str]:
    """Return what is known of the version of an archive that a file is read from."""
    if not is_url(inner):
        found = os.stat(inner)
        return {"checksum": f"{found.st_size} bytes, written {found.st_mtime_ns}"}
    files, path = _file_system(inner)
    info = _find(files, path)
    return {"checksum": version_of(info)} if info is not None and version_of(info) else {}


def _error_class(error: Exception) -> type[UserError]:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in _MAY_PASS:
        return UserError
    return InfrastructureError if is_transient(error) else UserError


def version_of(info: Info) -> str:
    """Return what tells the bytes of a file from others, by what its server says of it; empty if that is nothing."""
    return next((f"{key} {info[key]}" for key in _VERSIONS if info.get(key) is not None), "")


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        protocol = url.partition("://")[0]
        raise UserError(
            f"{url}: the protocol {protocol!r} cannot be used here ({one_line(error)}); install what it needs"
        ) from error
    return files, path


def local_directory(name: str) -> str | None:
    """Return the directory of a file on this machine, as its name spells it; None for one behind a URL."""
    return None if is_url(name) else os.path.dirname(name)
