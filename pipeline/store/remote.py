"""A store behind a URL, and its working copy: the directory on this machine where its artifacts are made and fetched.

<url>/<artifact>/{files, record.json}      a finished artifact; record.json is sent last
<url>/.unfinished/<artifact>/...           checkpoints and metrics of a training that is not finished
<work_dir>/<name of the url>/<artifact>/   the working copy of an artifact, made or fetched
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.host.console import print_line
from cluster.host.files import is_relative, sync, whole_file
from cluster.storage.errors import retry_through_outage
from cluster.storage.mirror import Mirror, UnfinishedLayout, mirrored
from cluster.storage.objects import ObjectStore, is_url, open_store
from cluster.storage.transfer import FileTransfer
from configs.base import UserError
from configs.cluster import StorageConfig
from pipeline.store.artifact import BUILD_COUNT_FILE, RECORD, Record, kept_record, parse_record
from training.checkpoint import rollbacks
from training.checkpoint.retention import hold
from training.log.metrics_file import METRICS_FILE
from training.log.sessions_file import SESSIONS_FILE
from training.records import CHECKPOINT_FILE, CHECKPOINT_NAME, CHECKPOINTS, rank_file_digests

UNFINISHED = ".unfinished"
_TRAINING = UnfinishedLayout(
    units=CHECKPOINTS,
    is_unit=lambda name: CHECKPOINT_NAME.fullmatch(name) is not None,
    last=CHECKPOINT_FILE,
    growing=(BUILD_COUNT_FILE, METRICS_FILE, SESSIONS_FILE, rollbacks.FILE),
    hold=hold,
    known_digests=partial(rank_file_digests, within=""),
)


def local_path(store: str, work_dir: str) -> Path:
    """Return where a store's artifacts are on disk: the store itself, or the working copy of a store that is a URL."""
    if not is_url(store):
        return Path(store).absolute()
    name = re.sub(r"[^A-Za-z0-9.]+", "-", store).strip("-.")[:60]
    return Path(work_dir).absolute() / f"{name}-{hashlib.sha256(store.encode()).hexdigest()[:8]}"


def open_remote_store(store: str, storage: StorageConfig) -> "RemoteStore | None":
    """Return the store behind a URL, None for a directory. Raises UserError if there is no driver for the protocol."""
    if not is_url(store):
        return None
    return RemoteStore(store, open_store(store), local_path(store, storage.work_dir), storage.num_transfers)


@dataclass(frozen=True)
class RemoteStore:
    """A store behind a URL, with its working copy. What the store refuses is a UserError or an InfrastructureError."""

    url: str
    store: ObjectStore
    working_copy: Path
    num_transfers: int
    """How many files are sent or fetched at once."""

    notify: Callable[[str], None] = print_line

    def check(self) -> None:
        """Raise UserError at once if the store cannot be written."""
        probe, without_retries = f".probe-{uuid.uuid4().hex}", open_store(self.url, num_tries=1)
        without_retries.write(probe, b"")
        without_retries.delete(probe)

    def has(self, artifact: str) -> bool:
        """Return whether the artifact is finished in the store."""
        return self.store.size(f"{artifact}/{RECORD}") is not None

    def fetch(self, artifact: str) -> bool:
        """Copy a finished artifact into the working copy; return False if the store has none.

        It replaces unfinished work on the artifact, whose lease the caller must hold. Every file is verified against
        the record. A fetch that was killed goes on where it was.
        """
        data = self.store.read(f"{artifact}/{RECORD}")
        if data is None:
            return False
        record = parse_record(data, where=f"{self.url}/{artifact}/{RECORD}")
        self._refuse_escape(artifact, record)
        staging, home = self.working_copy / ".fetching" / artifact, self.working_copy / artifact
        self._tree(artifact, record, staging).fetch(damaged=self._damaged(artifact))
        self._keep_ancestors(record)
        _keep_only(staging, record)
        with whole_file(staging / RECORD) as begun:
            begun.write_bytes(data)
        shutil.rmtree(home, ignore_errors=True)
        staging.rename(home)
        sync(self.working_copy)
        shutil.rmtree(self._damaged(artifact), ignore_errors=True)  # the second time it came right
        return True

    def publish(self, artifact: str, *, check: Callable[[], None] = lambda: None) -> None:
        """Send an artifact that is finished in the working copy, unless the store has it.

        `check` is called before record.json is sent, and may raise to forbid that. A store that does not answer is
        tried again for PATIENCE_SECONDS (cluster/storage/errors.py): finished work is not to fail for an outage.
        """
        retry_through_outage(lambda: self._publish(artifact, check), notify=self.notify)

    def _publish(self, artifact: str, check: Callable[[], None]) -> None:
        """Send it. If two runs made it at once, both are right, and the first record that arrives is kept.

        The run that finds another's record stops, unless it has overwritten files of the other with different bytes:
        then it sends all its files again, and its own record.
        """
        home, name = self.working_copy / artifact, f"{artifact}/{RECORD}"
        data = (home / RECORD).read_bytes()
        record = parse_record(data, where=str(home / RECORD))
        if not self.has(artifact):
            tree = self._tree(artifact, record, home)
            sent = tree.send(wanted=lambda: not self.has(artifact))
            check()
            if not self.store.create(name, data):
                other = parse_record(self.store.read(name) or b"", where=f"{self.url}/{name}")
                if any(other.files.get(file) != record.files[file] for file in sent):
                    tree.send()
                    self.store.write(name, data)
        self._mirror(artifact).delete()

    def recover(self, artifact: str) -> None:
        """Fetch unfinished work if the store's is further than the working copy's: in roll-backs, or in checkpoints."""
        mirror, home = self._mirror(artifact), self.working_copy / artifact
        remote_rollbacks = (mirror.read(rollbacks.FILE) or b"").count(b"\n")
        local = (len(rollbacks.read_rollbacks(home)), max(mirror.local_units(), default=""))
        if (remote_rollbacks, newest := mirror.newest()) > local and newest:
            self.notify(f"going on from {newest}, which {self.url} has kept")
            staging = self.working_copy / ".fetching" / f"{artifact}.unfinished"
            mirror.restore(staging=staging, damaged=self._damaged(artifact), notify=self.notify)

    def mirrored(self, artifact: str, *, check: Callable[[], None]) -> AbstractContextManager[None]:
        """Keep a copy of the unfinished work in the store up to date during the block."""
        return mirrored(self._mirror(artifact), check=check, notify=self.notify)

    def _refuse_escape(self, artifact: str, record: Record) -> None:
        for name in record.files:
            if not is_relative(name):
                raise UserError(
                    f"{self.url}/{artifact}/{RECORD} names the file {name!r}, which is not inside it; do not trust who "
                    f"wrote it, and delete {self.url}/{artifact} to have it made again"
                )

    def _keep_ancestors(self, record: Record) -> None:
        """Fetch the records of an artifact's ancestors, so that its lineage is complete in the working copy, too."""
        for name in (made_from.artifact for _, made_from in record.all_inputs()):
            path = kept_record(self.working_copy, name)
            if path.is_file() or (data := self.store.read(f"{name}/{RECORD}")) is None:
                continue
            self._keep_ancestors(parse_record(data, where=f"{self.url}/{name}/{RECORD}"))
            with whole_file(path) as begun:  # after its own ancestors': where a record is, theirs are
                begun.write_bytes(data)

    def _mirror(self, artifact: str) -> Mirror:
        place = f"{UNFINISHED}/{artifact}"
        return Mirror(self.store, place, self.working_copy / artifact, _TRAINING, self.num_transfers)

    def _tree(self, artifact: str, record: Record, directory: Path) -> FileTransfer:
        return FileTransfer(self.store, artifact, directory, record.files, self.num_transfers)

    def _damaged(self, artifact: str) -> Path:
        return self.working_copy / ".damaged" / artifact


def _keep_only(directory: Path, record: Record) -> None:
    """Delete what an earlier fetch, by another record, may have left."""
    for top, _, names in os.walk(directory):
        for path in (Path(top, name) for name in names):
            if str(path.relative_to(directory)) not in record.files:
                path.unlink()
