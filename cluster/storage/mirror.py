"""A copy, in a store, of work that is not done yet, so that it outlives the disk it is made on.

Unfinished work has units, such as checkpoints: directories that appear whole and do not change, each with a file that
is written last. Beside them are files that grow. The store keeps that order: a unit's last file is sent after the
checksums of the others and after the files that grow, which are therefore never behind the newest unit.

A thread keeps the copy up to date while the work is made (`mirrored`).
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from cluster.host.files import FileEntry, describe_file, sync, whole_file
from cluster.storage.objects import ObjectStore
from cluster.storage.transfer import FileTransfer
from configs.base import InfrastructureError, LeaseLost, UserError

SECONDS_BETWEEN_UPDATES = 1.0
SECONDS_AFTER_FAILURE = 15.0

_SUMS = ".files.json"
_SUMS_TYPE = TypeAdapter(dict[str, FileEntry])


@dataclass(frozen=True)
class UnfinishedLayout:
    """How unfinished work lies on disk."""

    units: str
    """Name of the directory that holds the units."""

    is_unit: Callable[[str], bool]
    """Whether a name in that directory is a unit's. Units sort by name: the greater is the newer."""

    last: str
    """The file of a unit that is written last. Its bytes alone tell units of one name apart."""

    growing: tuple[str, ...]
    """Files beside the units, which only grow."""

    hold: Callable[[Path], AbstractContextManager[None]] = lambda directory: nullcontext()
    """Keeps a unit from being deleted while it is read."""

    known_digests: Callable[[Path], Mapping[str, FileEntry]] = lambda directory: {}
    """Sizes and checksums of a unit's files that were computed when they were written; the others are read."""


@dataclass(frozen=True)
class Mirror:
    """The copy, under `prefix` of a store, of the unfinished work in a directory."""

    store: ObjectStore
    prefix: str
    directory: Path
    layout: UnfinishedLayout
    num_transfers: int
    seen: set[str] = field(default_factory=set, compare=False)
    """Units that `update` has found on disk. It deletes no others from the store: they may be another host's."""

    def update(self, check: Callable[[], None] = lambda: None) -> None:
        """Send the units that the store lacks, the newest first, and what grows; then delete those that went.

        `check` is called before anything is sent, completed or deleted, each time, by several threads at once; it may
        raise to forbid it.
        """
        remote, local = self._remote_units(), self.local_units()
        self.seen.update(local)
        for unit in sorted(local, reverse=True):
            if remote.get(unit) != local[unit]:
                self._send(unit, check, replace=unit in remote)
        # An empty directory may mean that this disk is gone: nothing is deleted then.
        if local and (gone := (remote.keys() & self.seen) - local.keys()):
            self.send_growing(check)
            for unit in gone:
                self._delete_unit(unit, check)

    def send_growing(self, check: Callable[[], None] = lambda: None) -> None:
        """Send the files beside the units, as they are now."""
        for name in self.layout.growing:
            if (data := _read(self.directory / name)) is not None:
                check()
                self.store.write(f"{self.prefix}/{name}", data)

    def local_units(self) -> dict[str, bytes]:
        """Return the units on disk, with the bytes of their last files; unless these change, `update` does nothing."""
        found = {}
        for path in self._units.iterdir() if self._units.is_dir() else ():
            if self.layout.is_unit(path.name) and (last := _read(path / self.layout.last)) is not None:
                found[path.name] = last
        return found

    def newest(self) -> str:
        """Return the name of the newest whole unit in the store; empty if there is none."""
        return max(self._remote_units(), default="")

    def read(self, name: str) -> bytes | None:
        """Return a file beside the units, from the store."""
        return self.store.read(f"{self.prefix}/{name}")

    def restore(self, *, staging: Path, damaged: Path, notify: Callable[[str], None]) -> None:
        """Fetch everything. The newest unit is fetched first and named last.

        A damaged unit is left out, and the user notified. `staging` is on the same disk; a killed `restore` goes on
        there.
        """
        for name in self.layout.growing:
            if (data := self.read(name)) is not None:
                with whole_file(self.directory / name) as begun:
                    begun.write_bytes(data)
        local, remote = self.local_units(), self._remote_units()
        wanted = sorted((unit for unit in remote if local.get(unit) != remote[unit]), reverse=True)
        fetched = [unit for unit in wanted if self._fetch(unit, remote[unit], staging / unit, damaged / unit, notify)]
        for unit in reversed(fetched):
            home = self._units / unit
            shutil.rmtree(home, ignore_errors=True)
            home.parent.mkdir(parents=True, exist_ok=True)
            (staging / unit).rename(home)
            sync(home.parent)
        shutil.rmtree(staging, ignore_errors=True)

    def delete(self) -> None:
        """Delete all of it from the store."""
        for unit in self._remote_units():
            self._delete_unit(unit)
        for name in self.store.list_names(f"{self.prefix}/"):
            self.store.delete(name)

    @property
    def _units(self) -> Path:
        return self.directory / self.layout.units

    def _remote_units(self) -> dict[str, bytes]:
        """Return the bytes of the last file of each unit in the store that is whole."""
        found = {}
        for name in self.store.list_names(f"{self.prefix}/{self.layout.units}/"):
            unit, _, file = name.removeprefix(f"{self.prefix}/{self.layout.units}/").partition("/")
            if self.layout.is_unit(unit) and file == self.layout.last and (last := self.store.read(name)) is not None:
                found[unit] = last
        return found

    def _send(self, unit: str, check: Callable[[], None], *, replace: bool) -> None:
        home, prefix = self._units / unit, self._prefix_of(unit)

        def allowed() -> bool:
            check()
            return True

        try:
            with self.layout.hold(home):
                if (last := _read(home / self.layout.last)) is None:
                    return
                if replace:  # another of the same name
                    check()
                    self.store.delete(f"{prefix}/{self.layout.last}")
                known = self.layout.known_digests(home)
                names = [path.name for path in home.iterdir() if path.name != self.layout.last]
                files = {name: known.get(name) or describe_file(home / name) for name in names}
                FileTransfer(self.store, prefix, home, files, self.num_transfers).send(wanted=allowed)
                check()
                self.store.write(f"{prefix}/{_SUMS}", _SUMS_TYPE.dump_json(files))
                self.send_growing(check)
                check()
                self.store.write(f"{prefix}/{self.layout.last}", last)
        except (UserError, FileNotFoundError):
            if (home / self.layout.last).exists():
                raise
            # It was deleted meanwhile: training has gone back to before it.

    def _fetch(self, unit: str, last: bytes, staging: Path, damaged: Path, notify: Callable[[str], None]) -> bool:
        staging.mkdir(parents=True, exist_ok=True)
        prefix = self._prefix_of(unit)
        try:
            files = _SUMS_TYPE.validate_json(self.store.read(f"{prefix}/{_SUMS}") or b"{}")
            FileTransfer(self.store, prefix, staging, files, self.num_transfers).fetch(damaged=damaged)
        except InfrastructureError:
            raise
        except UserError as error:
            notify(f"{unit} is left out: {error}")
            return False
        with whole_file(staging / self.layout.last) as begun:
            begun.write_bytes(last)
        return True

    def _delete_unit(self, unit: str, check: Callable[[], None] = lambda: None) -> None:
        prefix = self._prefix_of(unit)
        check()
        self.store.delete(f"{prefix}/{self.layout.last}")
        for name in self.store.list_names(f"{prefix}/"):
            check()
            self.store.delete(name)

    def _prefix_of(self, unit: str) -> str:
        return f"{self.prefix}/{self.layout.units}/{unit}"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


class _WorkEnded(Exception):
    """The work has ended, so the thread ends what it does."""


@contextmanager
def mirrored(mirror: Mirror, *, check: Callable[[], None], notify: Callable[[str], None]) -> Iterator[None]:
    """Keep the mirror up to date during the block, and once more when the block ends in an error.

    The user is notified of what the store refuses, and it is tried again: the work goes on. `check` as in
    Mirror.update; after LeaseLost nothing more is sent. Nor is it when the block ends well, because the caller then
    sends the finished work whole.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(mirror, ended, check, notify), name="mirror", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        _stop_thread(thread, ended)
        _update_last(mirror, check, notify)
        raise
    finally:
        _stop_thread(thread, ended)


def _stop_thread(thread: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    thread.join()


def _follow(mirror: Mirror, ended: threading.Event, check: Callable[[], None], notify: Callable[[str], None]) -> None:
    def check_goes_on() -> None:
        if ended.is_set():
            raise _WorkEnded
        check()

    sent: dict[str, bytes] = {}
    wait, notified = SECONDS_BETWEEN_UPDATES, ""
    while not ended.wait(wait):
        wait = SECONDS_BETWEEN_UPDATES
        try:
            if (local := mirror.local_units()) != sent:
                mirror.update(check_goes_on)
                sent, notified = local, ""
        except _WorkEnded:
            return
        except LeaseLost as error:
            return notify(_failure(error))
        except (UserError, OSError) as error:
            wait = SECONDS_AFTER_FAILURE
            if (text := _failure(error)) != notified:
                notify(text)
                notified = text


def _update_last(mirror: Mirror, check: Callable[[], None], notify: Callable[[str], None]) -> None:
    try:
        mirror.update(check)
        if mirror.local_units():
            mirror.send_growing(check)
    except (UserError, OSError) as error:  # the error that ended the work is the one to raise
        notify(_failure(error))


def _failure(error: Exception) -> str:
    return f"checkpoints are not copied to the store for now: {error}"
