"""The directory of a run in its store: `<store>/runs/<id>/`, from which anybody can tell how the run stands."""

import getpass
import os
import re
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from cluster.storage.objects import Objects, is_url, objects
from configs.base import UserError
from configs.cluster import StorageConfig
from configs.run import no_password
from pipeline.runs.records import AttemptRecord, RequestRecord, RunRecord, StartRecord
from pipeline.store.artifact import RECORD
from pipeline.store.remote import home_of

R = TypeVar("R", bound=BaseModel)

RUNS = "runs"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBERED = re.compile(r"\d{4,}\.json")


class RunDirectory:
    """The records of one run, in its store.

    `run.json`; `starts/0001.json`, ...; `attempts/0001.json`, ...; `requests/*.json`, each deleted once it is heard;
    `logs/start-0001.log`, ... of each start's driver; `node-failures.jsonl`.
    """

    def __init__(self, store: str, run_id: str, *, work_dir: str) -> None:
        """`store` is a directory or a URL; `work_dir` is where files lie of a store that is a URL."""
        self.store, self.id, self.work_dir = store_of(store), check_id(run_id), work_dir
        self.home = home_of(self.store, work_dir)
        self._objects: Objects = objects(self.store)
        self.remote: Objects | None = self._objects if is_url(self.store) else None
        """The store that is a URL; None for a directory."""

    @property
    def path(self) -> Path:
        """Where its files are on this machine."""
        return self.home / RUNS / self.id

    def run(self) -> RunRecord | None:
        """What was submitted; None if there is no such run."""
        return self._read("run.json", RunRecord)

    def create(self, record: RunRecord) -> bool:
        """Write what is submitted; False if there is a run of this id already."""
        return self._objects.create(self._name("run.json"), _bytes(record))

    def starts(self) -> list[StartRecord]:
        """Every start, in order."""
        return list(self._numbered("starts", StartRecord))

    def add_start(self, record: StartRecord) -> bool:
        """Write a start down; False if there is one of its number already."""
        return self._objects.create(self._name(f"starts/{record.number:04}.json"), _bytes(record))

    def note_handle(self, record: StartRecord, handle: str) -> StartRecord:
        """Write down what the launcher calls a start."""
        known = record.model_copy(update={"handle": handle})
        self._objects.write(self._name(f"starts/{record.number:04}.json"), _bytes(known))
        return known

    def attempts(self) -> list[AttemptRecord]:
        """Every attempt, in order."""
        return list(self._numbered("attempts", AttemptRecord))

    def add_attempt(self, record: AttemptRecord) -> bool:
        """Write down that an attempt begins; False if there is one of its number already."""
        return self._objects.create(self._name(f"attempts/{record.number:04}.json"), _bytes(record))

    def end_attempt(self, record: AttemptRecord) -> None:
        """Write down how an attempt ended."""
        self._objects.write(self._name(f"attempts/{record.number:04}.json"), _bytes(record))

    def ask(self, what: Literal["stop", "checkpoint"]) -> str:
        """Leave a request for the driver; returns its name."""
        name = self._name(f"requests/{uuid.uuid4().hex[:12]}.json")
        request = RequestRecord(what=what, time=now(), user=user(), host=socket.gethostname())
        self._objects.write(name, _bytes(request))
        return name

    def requests(self) -> dict[str, RequestRecord]:
        """What is asked for and not heard yet, by name."""
        found = ((name, self._objects.read(name)) for name in self._objects.names(self._name("requests/")))
        return {name: _parse(data, RequestRecord, name) for name, data in found if data is not None}

    def heard(self, name: str) -> None:
        """Delete a request."""
        self._objects.delete(name)

    def drop_requests(self, before: datetime) -> None:
        """Delete what was asked for before this time: it was meant for a driver that is gone."""
        for name, request in self.requests().items():
            if request.time < before:
                self.heard(name)

    def has(self, artifact: str) -> bool:
        """Whether an artifact is in the store, or here, finished."""
        if (self.home / artifact / RECORD).is_file():
            return True
        return self.remote is not None and self.remote.size(f"{artifact}/{RECORD}") is not None

    def log_of(self, start: int) -> Path:
        """File with what a start's driver printed."""
        return self.path / "logs" / f"start-{start:04}.log"

    def publish_log(self, start: int) -> None:
        """Put a start's log into a store that is a URL; in a directory it is there already."""
        file = self.log_of(start)
        if self.remote is not None and file.exists():
            self._objects.send(self._name(f"logs/{file.name}"), file)

    def log_from_store(self, start: int) -> bytes:
        """A start's log as far as the store has it."""
        return self._objects.read(self._name(f"logs/{self.log_of(start).name}")) or b""

    def _name(self, name: str) -> str:
        return f"{RUNS}/{self.id}/{name}"

    def _read(self, name: str, kind: type[R]) -> R | None:
        data = self._objects.read(self._name(name))
        return None if data is None else _parse(data, kind, f"{self.store}/{self._name(name)}")

    def _numbered(self, folder: str, kind: type[R]) -> Iterator[R]:
        prefix = self._name(f"{folder}/")
        names = [name for name in self._objects.names(prefix) if _NUMBERED.fullmatch(name.removeprefix(prefix))]
        for name in sorted(names, key=lambda name: int(name.removeprefix(prefix).removesuffix(".json"))):
            if (data := self._objects.read(name)) is not None:
                yield _parse(data, kind, f"{self.store}/{name}")


def open_run(store: str, run_id: str, *, work_dir: str | None = None) -> RunDirectory:
    """The directory of a run that is there; `work_dir` is that of its last start if left out.

    Raises UserError if there is no such run.
    """
    default = StorageConfig().work_dir
    directory = RunDirectory(store, run_id, work_dir=work_dir or default)
    if (run := directory.run()) is None:
        known = run_ids(store)
        there = f"it has {', '.join(known[-5:])}" if known else "it has no runs"
        raise UserError(
            f"the store {store} has no run {run_id!r} ({there}); `concord ls --store DIR` lists those of another store"
        )
    if work_dir is not None or directory.remote is None:
        return directory
    match [start.cluster for start in directory.starts()][-1:]:
        case [{"storage": {"work_dir": str(last)}}]:
            return RunDirectory(store, run_id, work_dir=str(Path(run.directory, last)))
    return RunDirectory(store, run_id, work_dir=str(Path(run.directory, default)))


def run_ids(store: str) -> list[str]:
    """The ids of all runs in a store."""
    parts = [name.split("/") for name in objects(store_of(store)).names(f"{RUNS}/")]
    return sorted(part[1] for part in parts if len(part) == 3 and part[2] == "run.json" and _ID.fullmatch(part[1]))


def check_id(run_id: str) -> str:
    """The id. Raises UserError if it cannot be a run's."""
    if not _ID.fullmatch(run_id):
        raise UserError(
            f"{run_id!r} is no run's id, which has only letters, digits, dots, dashes and underscores, and no more "
            "than 100 of them; `concord ls` lists those there are"
        )
    return run_id


def store_of(text: str) -> str:
    """A store as it is written into records: a URL as it is, a directory by its absolute path.

    Raises UserError if the URL holds a user or a password.
    """
    if not is_url(text):
        return str(Path(text).absolute())
    try:
        return no_password(text)
    except ValueError as error:
        raise UserError(str(error)) from None


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def user() -> str:
    """The user's name; their number where it has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _bytes(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _parse(data: bytes, kind: type[R], name: str) -> R:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise UserError(
            f"{name} is not a record that this version of Concord can read ({error.error_count()} problems); "
            "use the version that submitted the run"
        ) from error
