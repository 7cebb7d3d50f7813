"""Many files between a directory and a store: several at a time, each verified, going on where a killed one stopped."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cluster.host.files import FileEntry, describe_file, inside, sync
from cluster.storage.objects import ObjectStore
from configs.base import InfrastructureError, UserError

_BYTES_AT_A_TIME = 16 * 2**20

T = TypeVar("T")


@dataclass(frozen=True)
class FileTransfer:
    """Files under `prefix` of a store that are, or will be, files of `directory`, with what each must be."""

    store: ObjectStore
    prefix: str
    directory: Path
    files: Mapping[str, FileEntry]
    num_transfers: int
    """At a time."""

    def send(self, *, wanted: Callable[[], bool] = lambda: True) -> list[str]:
        """Send what is not there, and return its names. A file for which `wanted` says no is left out.

        `wanted` may also raise, to end it. It is asked again before a file is sent a second time, and can then only
        raise: what was begun is not left out. Each is verified in the store (ObjectStore.matches). Raises UserError or
        InfrastructureError.
        """
        sent = _in_parallel(partial(self._send, wanted=wanted), self.files, self.num_transfers)
        return [name for name in sent if name is not None]

    def fetch(self, *, damaged: Path) -> None:
        """Fetch what is not here. A file has its name when it is whole and its checksum right.

        One with another checksum is moved to the directory `damaged` and fetched once more. Raises UserError if it is
        wrong again or missing, InfrastructureError if the store does not answer, OSError as when this disk is full.
        """
        _in_parallel(partial(self._fetch, damaged=damaged), self.files, self.num_transfers)

    def _send(self, name: str, wanted: Callable[[], bool]) -> str | None:
        there, here, entry = f"{self.prefix}/{name}", inside(self.directory, name), self.files[name]
        if self.store.matches(there, here, entry):
            return None
        for is_first in (True, False):
            if not wanted() and is_first:
                return None
            self.store.upload(there, here)
            if self.store.matches(there, here, entry):
                return name
        if describe_file(here) != entry:
            raise UserError(f"{here} has changed since it was made; delete {self.directory} to have it made again")
        raise InfrastructureError(f"{self.store}/{there} is not what was sent, twice; see to the store, and run again")

    def _fetch(self, name: str, damaged: Path) -> None:
        there, here, entry = f"{self.prefix}/{name}", inside(self.directory, name), self.files[name]
        if here.is_file() and describe_file(here) == entry:
            return
        here.parent.mkdir(parents=True, exist_ok=True)
        begun = here.with_name(f".{here.name}.partial")
        for _ in range(2):
            self._download(there, begun, entry.num_bytes)
            if describe_file(begun) == entry:
                sync(begun)
                os.replace(begun, here)
                return
            aside = inside(damaged, name)
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(begun, aside)
        raise UserError(
            f"{self.store}/{there} is damaged: its checksum is not that of its record, twice over (what came is kept "
            f"as {aside}); delete {self.store}/{self.prefix} to have it made again"
        )

    def _download(self, name: str, begun: Path, num_bytes: int) -> None:
        """Go on with a file up to its size."""
        size = self.store.size(name)
        if size != num_bytes:
            what = "is missing" if size is None else f"has {size:,} bytes instead of {num_bytes:,}"
            raise UserError(f"{self.store}/{name} {what}; delete {self.store}/{self.prefix} to have it made again")
        with begun.open("ab") as file:
            if file.tell() > num_bytes:
                file.truncate(0)
            while (start := file.tell()) < num_bytes:
                file.write(self.store.read_range(name, start, min(start + _BYTES_AT_A_TIME, num_bytes)))


def _in_parallel(work: Callable[[str], T], names: Iterable[str], num_threads: int) -> list[T]:
    """Return what the work gives for each name; at the first error no more is begun."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="transfer") as pool:
        futures = [pool.submit(work, name) for name in names]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
