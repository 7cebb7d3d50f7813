"""A store as named objects: bytes under names such as `runs/x/state.json`, in a directory or behind a URL."""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from cluster.host.files import FileEntry
from cluster.storage.posix import PosixObjects
from configs.base import UserError


class Objects(Protocol):
    """Named objects. A name is a relative path; an object appears whole or not at all.

    Every method raises UserError or InfrastructureError, in one sentence, when the store refuses or does not answer.
    """

    def read(self, name: str) -> bytes | None:
        """The bytes, or None if there is no such object."""

    def write(self, name: str, data: bytes) -> None:
        """Write, or write over."""

    def create(self, name: str, data: bytes) -> bool:
        """Write if nothing is there; False if something is.

        Of several who try at once one is told True. Behind a URL the answer may be lost and the call repeated, so that
        the one who made it is told False: whoever must know writes who it is, and reads it back.
        """

    def names(self, prefix: str = "") -> list[str]:
        """The names of all objects that begin so, in order."""

    def delete(self, name: str) -> None:
        """Delete the object, if there is one."""

    def size(self, name: str) -> int | None:
        """Bytes of the object, or None if there is none."""

    def part(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` - 1."""

    def send(self, name: str, file: Path) -> None:
        """Write a file's bytes, or write them over what is there."""

    def holds(self, name: str, file: Path, entry: FileEntry) -> bool:
        """Whether the object has the bytes of `file`, whose size and checksum are `entry`."""


def objects(store: str | Path, *, num_tries: int = 5) -> Objects:
    """The objects in a directory, or behind a URL of any protocol that fsspec knows.

    `file://` is a directory like any other, so that its files too appear whole. Behind a URL, what fails in passing is
    tried `num_tries` times. Raises UserError if the URL names no place, the protocol is not known, or its package is
    not installed.
    """
    if not is_url(store):
        return PosixObjects(Path(store).absolute())
    if (parts := urlsplit(str(store))).scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UserError(
                f"{store}: {parts.netloc!r} would be a host; a path begins with a third slash: file:///path"
            )
        return PosixObjects(Path(unquote(parts.path)))
    if not parts.scheme or not (parts.netloc + parts.path).strip("/"):
        raise UserError(f"{store} names no place; give a directory, or a URL such as s3://bucket/prefix")
    from cluster.storage.remote import RemoteObjects

    return RemoteObjects(str(store), num_tries=num_tries)


def is_url(store: str | Path) -> bool:
    """Whether a store is a URL rather than a path."""
    return "://" in str(store)
