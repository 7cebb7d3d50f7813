"""The fsspec door: objects behind a URL."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from cluster.host.files import FileEntry, is_relative
from cluster.storage.errors import retry_request, store_errors
from configs.base import UserError
from configs.secrets import without_secrets

PART_BYTES = 32 * 2**20
"""What is read at a time, and a part of an upload to S3, which takes 10,000 of them: larger files have larger ones."""
_MAX_PARTS = 10_000
_PARTS_AT_A_TIME = 2


class RemoteObjectStore:
    """ObjectStore behind a URL. A write is one request, so it is whole or not at all on every object store."""

    def __init__(self, url: str, *, num_tries: int) -> None:
        self._url, self._num_tries = url.rstrip("/"), num_tries
        self._files, self._root = _file_system(self._url)

    def __str__(self) -> str:
        return without_secrets(self._url)

    def read(self, name: str) -> bytes | None:
        """Return the bytes, or None if there is no such object."""
        with self._at(name) as path, suppress(FileNotFoundError):
            return bytes(retry_request(self._num_tries, self._files.cat_file, path))
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write, or write over."""
        with self._at(name) as path:
            retry_request(self._num_tries, self._files.pipe_file, path, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write if nothing is there; False if something is. A store that cannot tell is looked at first."""
        with self._at(name) as path:
            try:
                retry_request(self._num_tries, self._create, path, data)
            except FileExistsError:
                return False
        return True

    def list_names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects that begin so, in order."""
        above = f"{self._root}/{prefix.rpartition('/')[0]}".rstrip("/")
        with store_errors(f"{self}/{prefix}"):
            paths = retry_request(self._num_tries, self._files.find, above)
            return sorted(name for path in paths if (name := self._name_of(path)).startswith(prefix))

    def delete(self, name: str) -> None:
        """Delete the object, if there is one."""
        with self._at(name) as path, suppress(FileNotFoundError):
            retry_request(self._num_tries, self._files.rm_file, path)

    def size(self, name: str) -> int | None:
        """Return the size of the object in bytes, or None if there is none."""
        with self._at(name) as path:
            info = self._info(path)
            return None if info is None else int(info["size"])

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes `start` to `stop` - 1."""
        with self._at(name) as path:
            return bytes(retry_request(self._num_tries, self._files.cat_file, path, start=start, end=stop))

    def upload(self, name: str, file: Path) -> None:
        """Write a file's bytes, or write them over what is there."""
        options = {"chunksize": _part_bytes(file.stat().st_size), "max_concurrency": _PARTS_AT_A_TIME}
        with self._at(name) as path:
            retry_request(self._num_tries, self._files.put_file, str(file), path, **(options if self._is_s3 else {}))

    def matches(self, name: str, file: Path, entry: FileEntry) -> bool:
        """Return whether the object has the bytes of `file`, whose size and checksum are `entry`.

        By S3's ETag where that is made of MD5s; else the object is read back and its SHA-256 taken.
        """
        with self._at(name) as path:
            info = self._info(path)
        if info is None or int(info["size"]) != entry.num_bytes:
            return False
        if self._is_s3 and str(info.get("ETag", "")).strip('"') == _etag(file, entry.num_bytes):
            return True
        read = hashlib.sha256()
        for start in range(0, entry.num_bytes, PART_BYTES):
            read.update(self.read_range(name, start, min(start + PART_BYTES, entry.num_bytes)))
        return read.hexdigest() == entry.sha256

    @property
    def _is_s3(self) -> bool:
        return "s3" in self._files.protocol

    @contextmanager
    def _at(self, name: str) -> Iterator[str]:
        if not is_relative(name):
            raise UserError(f"{self} was asked for {name!r}, which is not inside it; do not trust what names it so")
        with store_errors(f"{self}/{name}"):
            yield f"{self._root}/{name}"

    def _name_of(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")

    def _info(self, path: str) -> dict[str, Any] | None:
        with suppress(FileNotFoundError):
            info: dict[str, Any] = retry_request(self._num_tries, self._files.info, path)
            return info if info["type"] == "file" else None
        return None

    def _create(self, path: str, data: bytes) -> None:
        try:
            self._files.pipe_file(path, data, mode="create")
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                raise
            if self._files.exists(path):
                raise FileExistsError(path) from error
            self._files.pipe_file(path, data)


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        with store_errors(without_secrets(url)):  # some protocols connect at once
            # What others write must be seen: no listing is remembered.
            files, root = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UserError(
            f"{without_secrets(url)}: {error}; a package for {protocol}:// is missing{_package(protocol)}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{without_secrets(url)}: {error}; give a directory, or a URL such as s3://bucket/prefix"
        ) from error
    return files, root.rstrip("/")


def _package(protocol: str) -> str:
    ours = "'concord-train[s3]'"
    known = {"s3": ours, "s3a": ours, "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
    return f": pip install {known[protocol]}" if protocol in known else ""


def _part_bytes(num_bytes: int) -> int:
    return max(PART_BYTES, -(-num_bytes // _MAX_PARTS))


def _etag(file: Path, num_bytes: int) -> str:
    """Return the ETag that S3 gives to what `send` sends: the MD5, or that of the parts' MD5s with their number."""
    part_bytes = _part_bytes(num_bytes)
    with file.open("rb") as source:
        if num_bytes < 2 * part_bytes:  # s3fs sends it in one request
            return _md5(source.read()).hex()
        sums = [_md5(part) for part in iter(lambda: source.read(part_bytes), b"")]
    return f"{_md5(b''.join(sums)).hex()}-{len(sums)}"


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
