"""A store as named objects: bytes under names such as `runs/x/state.json`, in a directory or behind a URL."""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from cluster.host.files import FileEntry
from cluster.storage.posix import DirectoryStore
from configs.base import UserError


class ObjectStore(Protocol):
    """Named objects. A name is a relative path; an object appears whole or not at all.

    Every method raises UserError or InfrastructureError, in one sentence, when the store refuses or does not answer.
    """

    def read(self, name: str) -> bytes | None:
        """Return the bytes, or None if there is no such object."""

    def write(self, name: str, data: bytes) -> None:
        """Write, or write over."""

    def create(self, name: str, data: bytes) -> bool:
        """Write if nothing is there; False if something is.

        Of several who try at once one is told True. Behind a URL the answer may be lost and the call repeated, so that
        the one who made it is told False: whoever must know writes who it is, and reads it back.
        """

    def list_names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects that begin so, in order."""

    def delete(self, name: str) -> None:
        """Delete the object, if there is one."""

    def size(self, name: str) -> int | None:
        """Return the size of the object in bytes, or None if there is none."""

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes `start` to `stop` - 1."""

    def upload(self, name: str, file: Path) -> None:
        """Write a file's bytes, or write them over what is there."""

    def matches(self, name: str, file: Path, entry: FileEntry) -> bool:
        """Return whether the object has the bytes of `file`, whose size and checksum are `entry`."""


def open_store(store: str | Path, *, num_tries: int = 5) -> ObjectStore:
    """Return the objects in a directory, or behind a URL of any protocol that fsspec knows.

    `file://` is a directory like any other, so that its files too appear whole. Behind a URL, what fails in passing is
    tried `num_tries` times. Raises UserError if the URL names no place, the protocol is not known, or its package is
    not installed.
    """
    if not is_url(store):
        return DirectoryStore(Path(store).absolute())
    if (parts := urlsplit(str(store))).scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UserError(
                f"{store}: {parts.netloc!r} would be a host; a path begins with a third slash: file:///path"
            )
        return DirectoryStore(Path(unquote(parts.path)))
    if not parts.scheme or not (parts.netloc + parts.path).strip("/"):
        raise UserError(f"{store} names no place; give a directory, or a URL such as s3://bucket/prefix")
    from cluster.storage.remote import RemoteObjectStore

    return RemoteObjectStore(str(store), num_tries=num_tries)


def is_url(store: str | Path) -> bool:
    """Return whether a store is a URL rather than a path."""
    return "://" in str(store)
