"""Files that appear whole or not at all, whatever is killed and however full the disk is."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from configs.base import UserError


class FileEntry(BaseModel):
    """Size and checksum of a file."""

    num_bytes: int
    sha256: str


def version_of(path: Path) -> tuple[int, int]:
    """Return what changes with a file's bytes, for caches: when it was written and its size; zeros if it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` if the block ends well and is removed if it does not.

    The bytes are on disk before the name is. Two writers of one path do not disturb each other; the last one wins,
    or without `replace` the first: raises FileExistsError if the name is taken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        sync(partial)
        if replace:
            os.replace(partial, path)
        else:
            os.link(partial, path)  # atomic, on NFS too, and refused if the name is taken
            partial.unlink()
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_partial(name: str) -> bool:
    """Return whether a name is that of a file which `whole_file` has not finished."""
    return name.startswith(".") and name.endswith(".partial")


def delete_partials(directory: Path) -> None:
    """Delete what `whole_file` left unfinished in a directory, and below it, when its process was killed."""
    for top, _, names in os.walk(directory):
        for name in filter(is_partial, names):
            Path(top, name).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> FileEntry:
    """Read the size and the checksum of a file."""
    return FileEntry(num_bytes=path.stat().st_size, sha256=sha256_of(path))


def is_relative(name: str) -> bool:
    """Return whether a name stays below the directory it is looked up in: not absolute, no `..`, not empty."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def inside(directory: Path, relative: str) -> Path:
    """Return the path of a file that a record or a manifest names, below its directory.

    Raises UserError if it would leave the directory: absolute, with `..`, or by a symbolic link.
    """
    path = directory / relative
    if not is_relative(relative) or not path.resolve().is_relative_to(directory.resolve()):
        raise UserError(
            f"{directory} names a file {relative!r} that is not inside it; do not trust it: delete the directory to "
            "have it made again"
        )
    return path
