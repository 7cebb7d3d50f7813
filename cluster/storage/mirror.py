"""A copy, in a store, of work that is not done yet, so that it outlives the disk it is made on.

Unfinished work has units, such as checkpoints: directories that appear whole and do not change, each with a file that
is written last. Beside them are files that grow. In the store, too, that file comes last, after the checksums of the
others and after what grows, which is so never behind the newest unit.
"""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from cluster.host.files import FileEntry, describe_file, sync, whole_file
from cluster.storage.objects import Objects
from cluster.storage.transfer import Tree
from configs.base import InfrastructureError, UserError

_SUMS = ".files.json"
_SUMS_TYPE = TypeAdapter(dict[str, FileEntry])


@dataclass(frozen=True)
class Shape:
    """What unfinished work looks like on disk."""

    units: str
    """Directory of the units."""

    is_unit: Callable[[str], bool]
    """Whether a name there is that of a unit. Of two, the later name is the newer."""

    last: str
    """The file of a unit that is written last, which says by its bytes alone which unit it is."""

    growing: tuple[str, ...]
    """Files beside the units."""

    hold: Callable[[Path], AbstractContextManager[None]] = lambda directory: nullcontext()
    """Keeps a unit from being deleted while it is read."""


@dataclass(frozen=True)
class Mirror:
    """The copy of one piece of work under `prefix` of a store."""

    store: Objects
    prefix: str
    directory: Path
    shape: Shape
    num_transfers: int
    seen: set[str] = field(default_factory=set, compare=False)
    """The units that `update` has found on disk: of others it does not know that they are gone."""

    def update(self, check: Callable[[], None] = lambda: None) -> None:
        """Send the units that are not there, the newest first, and what grows; then delete those it saw go.

        `check` is called before anything is sent, completed or deleted, and may raise to forbid it.
        """
        there, here = self._there(), self.here()
        self.seen.update(here)
        for unit in sorted(here, reverse=True):
            if there.get(unit) != here[unit]:
                self._send(unit, check, replace=unit in there)
        # That there is nothing here at all may be because this disk is gone.
        if here and (gone := (there.keys() & self.seen) - here.keys()):
            self.send_growing(check)
            for unit in gone:
                check()
                self._delete_unit(unit)

    def send_growing(self, check: Callable[[], None] = lambda: None) -> None:
        """Send the files beside the units, as they are now."""
        for name in self.shape.growing:
            if (data := _read(self.directory / name)) is not None:
                check()
                self.store.write(f"{self.prefix}/{name}", data)

    def here(self) -> dict[str, bytes]:
        """The units on disk, with the bytes of their last files. While that is the same `update` has nothing to do."""
        found = {}
        for path in self._units.iterdir() if self._units.is_dir() else ():
            if self.shape.is_unit(path.name) and (last := _read(path / self.shape.last)) is not None:
                found[path.name] = last
        return found

    def newest(self) -> str:
        """The newest unit in the store that is whole; empty if there is none."""
        return max(self._there(), default="")

    def read(self, name: str) -> bytes | None:
        """A file beside the units, from the store."""
        return self.store.read(f"{self.prefix}/{name}")

    def restore(self, *, staging: Path, damaged: Path, tell: Callable[[str], None]) -> None:
        """Fetch everything. The newest unit comes first over the wire and last under its name.

        A unit that is damaged is told of and left out. `staging` is on the same disk; a killed `restore` goes on there.
        """
        for name in self.shape.growing:
            if (data := self.read(name)) is not None:
                with whole_file(self.directory / name) as begun:
                    begun.write_bytes(data)
        here, there = self.here(), self._there()
        wanted = sorted((unit for unit in there if here.get(unit) != there[unit]), reverse=True)
        fetched = [unit for unit in wanted if self._fetch(unit, there[unit], staging / unit, damaged / unit, tell)]
        for unit in reversed(fetched):
            home = self._units / unit
            shutil.rmtree(home, ignore_errors=True)
            home.parent.mkdir(parents=True, exist_ok=True)
            (staging / unit).rename(home)
            sync(home.parent)
        shutil.rmtree(staging, ignore_errors=True)

    def delete(self) -> None:
        """Delete all of it from the store."""
        for unit in self._there():
            self._delete_unit(unit)
        for name in self.store.names(f"{self.prefix}/"):
            self.store.delete(name)

    @property
    def _units(self) -> Path:
        return self.directory / self.shape.units

    def _there(self) -> dict[str, bytes]:
        """The bytes of the last file of each unit in the store that is whole."""
        found = {}
        for name in self.store.names(f"{self.prefix}/{self.shape.units}/"):
            unit, _, file = name.removeprefix(f"{self.prefix}/{self.shape.units}/").partition("/")
            if self.shape.is_unit(unit) and file == self.shape.last and (last := self.store.read(name)) is not None:
                found[unit] = last
        return found

    def _send(self, unit: str, check: Callable[[], None], *, replace: bool) -> None:
        home, prefix = self._units / unit, self._prefix_of(unit)

        def allowed() -> bool:
            check()
            return True

        try:
            with self.shape.hold(home):
                if (last := _read(home / self.shape.last)) is None:
                    return
                if replace:  # another of the same name
                    check()
                    self.store.delete(f"{prefix}/{self.shape.last}")
                files = {path.name: describe_file(path) for path in home.iterdir() if path.name != self.shape.last}
                Tree(self.store, prefix, home, files, self.num_transfers).send(wanted=allowed)
                self.store.write(f"{prefix}/{_SUMS}", _SUMS_TYPE.dump_json(files))
                self.send_growing(check)
                check()
                self.store.write(f"{prefix}/{self.shape.last}", last)
        except (UserError, FileNotFoundError):
            if (home / self.shape.last).exists():
                raise
            # It was deleted meanwhile: training has gone back to before it.

    def _fetch(self, unit: str, last: bytes, staging: Path, damaged: Path, tell: Callable[[str], None]) -> bool:
        staging.mkdir(parents=True, exist_ok=True)
        prefix = self._prefix_of(unit)
        try:
            files = _SUMS_TYPE.validate_json(self.store.read(f"{prefix}/{_SUMS}") or b"{}")
            Tree(self.store, prefix, staging, files, self.num_transfers).fetch(damaged=damaged)
        except InfrastructureError:
            raise
        except UserError as error:
            tell(f"{unit} is left out: {error}")
            return False
        with whole_file(staging / self.shape.last) as begun:
            begun.write_bytes(last)
        return True

    def _delete_unit(self, unit: str) -> None:
        prefix = self._prefix_of(unit)
        self.store.delete(f"{prefix}/{self.shape.last}")
        for name in self.store.names(f"{prefix}/"):
            self.store.delete(name)

    def _prefix_of(self, unit: str) -> str:
        return f"{self.prefix}/{self.shape.units}/{unit}"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
