"""The directory of a run in its store, `<store>/runs/<id>/`, and the records in it, by which anybody knows the run."""

import getpass
import os
import re
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from cluster.storage.objects import ObjectStore, is_url, open_store
from configs.base import Name, UserError
from configs.cluster import StorageConfig
from configs.paths import no_password
from pipeline.runs.retry import Outcome
from pipeline.store.artifact import RECORD
from pipeline.store.remote import local_path

R = TypeVar("R", bound=BaseModel)

RUNS = "runs"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBERED = re.compile(r"\d{4,}\.json")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunRecord(_Record):
    """What was submitted. It is written once and never changed."""

    format: Literal[1] = 1
    id: Name
    key: str
    """Random digits, by which launchers tell this run from one of the same id in another store."""

    recipe: JsonValue
    """The whole recipe, with its overrides applied and every default filled in."""

    recipe_path: str
    """The file that the recipe was read from, on the machine that submitted."""

    overrides: tuple[str, ...]
    directory: str
    """The working directory of the submission: the recipe's relative paths are relative to it."""

    submitted: datetime
    user: str
    host: str


class StartRecord(_Record):
    """One start of the run's driver, by `submit` or by `resume`."""

    format: Literal[1] = 1
    number: int
    cluster_name: str
    cluster: JsonValue
    """The cluster file, with every default filled in. Placement may change from start to start."""

    artifacts: dict[str, str]
    """The artifact that each step makes, by step name. What the sources held is part of an artifact's name."""

    code: str
    packages: dict[str, str]
    avoid: tuple[str, ...]
    """Hosts that failed the check before the start."""

    take_over: bool
    """Whether a driver that still holds the run's lease is fenced off."""

    profile: str | None = None
    """The optimizer steps that its trainings record, as --profile had them."""

    time: datetime
    handle: str | None = None
    """What the launcher calls the driver, once it has started it."""


class AttemptRecord(_Record):
    """One attempt: a process that runs the recipe and goes on where the attempt before it ended."""

    format: Literal[1] = 1
    number: int
    start: int
    """The start whose driver made the attempt."""

    host: str
    """The host of the driver, as `pid` is its process."""

    pid: int
    began: datetime
    ended: datetime | None = None
    outcome: Outcome | None = None
    """None while the attempt goes on, or when its driver died with it."""

    reason: str = ""
    """What the attempt said at its end."""

    exit_code: int | None = None
    progressed: bool = False
    """Whether the attempt finished a step, or a checkpoint, that was not there before."""

    code: str
    packages: dict[str, str]


class RequestRecord(_Record):
    """Something that a user asks of a run that goes on."""

    format: Literal[1] = 1
    what: Literal["stop", "checkpoint"]
    time: datetime
    user: str
    host: str


class RunDirectory:
    """The records of one run, in its store:

    run.json                  what was submitted
    starts/0001.json ...      each start of the driver
    attempts/0001.json ...    each attempt that a driver made
    requests/*.json           what users ask of the run, each deleted once its driver has read it
    logs/start-0001.log ...   what each start's driver printed
    node-failures.jsonl       which nodes ranks were lost on
    """

    def __init__(self, store: str, run_id: str, *, work_dir: str) -> None:
        """`store` is a directory or a URL; the files of a store that is a URL lie in `work_dir`."""
        self.store, self.id, self.work_dir = store_of(store), check_id(run_id), work_dir
        self.home = local_path(self.store, work_dir)
        self._objects: ObjectStore = open_store(self.store)
        self.remote: ObjectStore | None = self._objects if is_url(self.store) else None
        """The store, if it is a URL; None if it is a directory."""

    @property
    def path(self) -> Path:
        """The directory of the run's files on this machine."""
        return self.home / RUNS / self.id

    def run(self) -> RunRecord | None:
        """Return what was submitted; None if there is no such run."""
        return self._read("run.json", RunRecord)

    def create(self, record: RunRecord) -> bool:
        """Write down what is submitted; return False if there is a run of this id already."""
        return self._objects.create(self._name("run.json"), _bytes(record))

    def starts(self) -> list[StartRecord]:
        """Return every start, in order."""
        return list(self._numbered("starts", StartRecord))

    def add_start(self, record: StartRecord) -> bool:
        """Write down a start; return False if there is one of its number already."""
        return self._objects.create(self._name(f"starts/{record.number:04}.json"), _bytes(record))

    def note_handle(self, record: StartRecord, handle: str) -> StartRecord:
        """Write down what the launcher calls a start."""
        known = record.model_copy(update={"handle": handle})
        self._objects.write(self._name(f"starts/{record.number:04}.json"), _bytes(known))
        return known

    def attempts(self) -> list[AttemptRecord]:
        """Return every attempt, in order."""
        return list(self._numbered("attempts", AttemptRecord))

    def add_attempt(self, record: AttemptRecord) -> bool:
        """Write down that an attempt begins; return False if there is one of its number already."""
        return self._objects.create(self._name(f"attempts/{record.number:04}.json"), _bytes(record))

    def end_attempt(self, record: AttemptRecord) -> None:
        """Write down how an attempt ended."""
        self._objects.write(self._name(f"attempts/{record.number:04}.json"), _bytes(record))

    def add_request(self, what: Literal["stop", "checkpoint"]) -> str:
        """Leave a request for the driver and return the request's name."""
        name = self._name(f"requests/{uuid.uuid4().hex[:12]}.json")
        request = RequestRecord(what=what, time=now(), user=user_name(), host=socket.gethostname())
        self._objects.write(name, _bytes(request))
        return name

    def requests(self) -> dict[str, RequestRecord]:
        """Return the requests that no driver has read yet, by name."""
        found = ((name, self._objects.read(name)) for name in self._objects.list_names(self._name("requests/")))
        return {name: _parse(data, RequestRecord, name) for name, data in found if data is not None}

    def delete_request(self, name: str) -> None:
        """Delete a request, because a driver has read it or nobody is to."""
        self._objects.delete(name)

    def drop_requests(self, before: datetime) -> None:
        """Delete the requests made before this time: they were meant for a driver that is gone."""
        for name, request in self.requests().items():
            if request.time < before:
                self.delete_request(name)

    def has_artifact(self, artifact: str) -> bool:
        """Return whether an artifact is finished, on this machine or in the store."""
        if (self.home / artifact / RECORD).is_file():
            return True
        return self.remote is not None and self.remote.size(f"{artifact}/{RECORD}") is not None

    def log_path(self, start: int) -> Path:
        """Return the file, on this machine, of what a start's driver prints."""
        return self.path / "logs" / f"start-{start:04}.log"

    def publish_log(self, start: int) -> None:
        """Put a start's log into the store if that is a URL; in a directory it is there already."""
        file = self.log_path(start)
        if self.remote is not None and file.exists():
            self._objects.upload(self._name(f"logs/{file.name}"), file)

    def read_stored_log(self, start: int) -> bytes:
        """Return a start's log as far as it has been put into the store."""
        return self._objects.read(self._name(f"logs/{self.log_path(start).name}")) or b""

    def _name(self, name: str) -> str:
        return f"{RUNS}/{self.id}/{name}"

    def _read(self, name: str, kind: type[R]) -> R | None:
        data = self._objects.read(self._name(name))
        return None if data is None else _parse(data, kind, f"{self.store}/{self._name(name)}")

    def _numbered(self, folder: str, kind: type[R]) -> Iterator[R]:
        prefix = self._name(f"{folder}/")
        names = [name for name in self._objects.list_names(prefix) if _NUMBERED.fullmatch(name.removeprefix(prefix))]
        for name in sorted(names, key=lambda name: int(name.removeprefix(prefix).removesuffix(".json"))):
            if (data := self._objects.read(name)) is not None:
                yield _parse(data, kind, f"{self.store}/{name}")


def open_run(store: str, run_id: str, *, work_dir: str | None = None) -> RunDirectory:
    """Return the directory of a run that exists; left out, `work_dir` is that of its last start.

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
    """Return the ids of all runs in a store, sorted."""
    parts = [name.split("/") for name in open_store(store_of(store)).list_names(f"{RUNS}/")]
    return sorted(part[1] for part in parts if len(part) == 3 and part[2] == "run.json" and _ID.fullmatch(part[1]))


def check_id(run_id: str) -> str:
    """Return the id. Raises UserError if a run cannot have it."""
    if not _ID.fullmatch(run_id):
        raise UserError(
            f"{run_id!r} is no run's id, which has only letters, digits, dots, dashes and underscores, and no more "
            "than 100 of them; `concord ls` lists those there are"
        )
    return run_id


def store_of(text: str) -> str:
    """Return a store as records name it: a URL as it is, a directory by its absolute path.

    Raises UserError if the URL holds a user or a password.
    """
    if not is_url(text):
        return str(Path(text).absolute())
    try:
        return no_password(text)
    except ValueError as error:
        raise UserError(str(error)) from None


def lease_name(run_id: str) -> str:
    """Return the name of the lease that the driver of a run holds."""
    return f"run-{run_id}"


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def user_name() -> str:
    """Return the name of this process's user; the number where there is no name, as in a container."""
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
