"""ObjectStore that are files in a directory."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.host.files import FileEntry, describe_file, inside, is_partial, whole_file
from cluster.storage.errors import store_errors


class DirectoryStore:
    """ObjectStore that are files in a directory. Every write is whole or not at all, and exclusive where it says so."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """Return the bytes, or None if there is no such object."""
        with self._at(name) as path, suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write, or write over."""
        with self._at(name) as path, whole_file(path) as partial:
            partial.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write if nothing is there; False if something is."""
        with self._at(name) as path:
            try:
                with whole_file(path, replace=False) as partial:
                    partial.write_bytes(data)
            except FileExistsError:
                if not path.is_file():
                    raise
                return False
        return True

    def list_names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects that begin so, in order."""
        above = prefix.rpartition("/")[0]
        with store_errors(f"{self}: {prefix}"):
            tops = os.walk(inside(self.root, above) if above else self.root, onerror=_unless_gone)
            paths = [Path(top, name) for top, _, names in tops for name in names if not is_partial(name)]
            return sorted(name for path in paths if (name := str(path.relative_to(self.root))).startswith(prefix))

    def delete(self, name: str) -> None:
        """Delete the object, if there is one."""
        with self._at(name) as path:
            path.unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        """Return the size of the object in bytes, or None if there is none."""
        with self._at(name) as path:
            return path.stat().st_size if path.is_file() else None

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes `start` to `stop` - 1."""
        with self._at(name) as path, path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def upload(self, name: str, file: Path) -> None:
        """Write a file's bytes, or write them over what is there."""
        with self._at(name) as path, whole_file(path) as partial:
            shutil.copyfile(file, partial)

    def matches(self, name: str, file: Path, entry: FileEntry) -> bool:
        """Return whether the object has the bytes of `file`, whose size and checksum are `entry`. By its SHA-256."""
        with self._at(name) as path:
            return path.is_file() and path.stat().st_size == entry.num_bytes and describe_file(path) == entry

    @contextmanager
    def _at(self, name: str) -> Iterator[Path]:
        with store_errors(f"{self}: {name}"):
            yield inside(self.root, name)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
