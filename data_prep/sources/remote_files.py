"""Source files on this machine or behind a URL of any protocol that fsspec knows: list, open, version."""

import glob
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

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
    """Open a file to read its bytes; it can be sought in. Raises OSError, also for what a protocol's library raises."""
    if not is_url(name):
        return open(name, "rb")
    files, path = _file_system(name)
    try:
        opened: BinaryIO = files.open(path, "rb")
    except OSError:
        raise
    except Exception as error:
        raise OSError(one_line(error)) from error
    return opened


Info = Mapping[str, Any]
"""What a protocol says of a file, in the keys of fsspec; empty of one on this machine."""


def list_matches(source: str, pattern: str) -> dict[str, Info]:
    """Return the names that a pattern matches, or the one of that very name. Raises UserError if no server answers."""
    if not is_url(pattern):
        names = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        return {name: {} for name in names}
    files, path = _file_system(pattern)
    try:
        info = _find(files, path)
        if info is not None or not any(character in path for character in "*?["):
            return {pattern: info} if info is not None and info["type"] == "file" else {}
        found: dict[str, Info] = files.glob(path, detail=True)
        return {files.unstrip_protocol(name): one for name, one in found.items() if one["type"] == "file"}
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
