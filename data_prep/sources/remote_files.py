"""Source files on this machine or behind a URL of any protocol that fsspec knows: list, open, size, version."""

import glob
import os
from typing import Any, BinaryIO

from pydantic import JsonValue

from cluster.storage.errors import is_transient
from configs.base import InfrastructureError, UserError
from configs.text import one_line

_VERSIONS = ("ETag", "etag", "md5Hash", "checksum", "content_hash", "generation", "LastModified", "mtime", "created")
"""What protocols say of a file that changes when its bytes do, the surest first."""


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


def list_matches(source: str, pattern: str) -> list[str]:
    """Return the names that a pattern matches, or the one of that very name. Raises UserError if no server answers."""
    if not is_url(pattern):
        return [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    files, path = _file_system(pattern)
    try:
        if not any(character in path for character in "*?[") or files.exists(path):
            return [pattern] if files.isfile(path) else []
        return [files.unstrip_protocol(found) for found in files.glob(path) if files.isfile(found)]
    except Exception as error:  # whatever HTTP, botocore and others raise
        kind = InfrastructureError if isinstance(error, OSError) and is_transient(error) else UserError
        raise kind(
            f"source '{source}': {pattern} cannot be listed ({type(error).__name__}: {one_line(error)}); check the "
            "URL, its credentials and the network"
        ) from error


def size_of(name: str) -> int:
    """Return the bytes of a file; 0 if its server does not say."""
    if not is_url(name):
        return os.stat(name).st_size
    return int(_info(name).get("size") or 0)


def version_of(name: str) -> JsonValue:
    """Return what tells the bytes of a file behind a URL from others, as its server says it.

    Raises UserError if it says nothing but the size: the same recipe could then make something else.
    """
    info = _info(name)
    found: dict[str, JsonValue] = {key: str(info[key]) for key in _VERSIONS if info.get(key) is not None}
    if not found:
        raise UserError(f"{name}: its server tells no version of the file (ETag or time); copy it and name the copy")
    return {"size": int(info.get("size") or 0), **found}


def _info(name: str) -> dict[str, Any]:
    files, path = _file_system(name)
    try:
        info: dict[str, Any] = files.info(path)
    except OSError:
        raise
    except Exception as error:
        raise OSError(one_line(error)) from error
    return info


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
