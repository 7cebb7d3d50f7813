"""A store behind a URL, and the directory where its artifacts are made and kept at hand.

<url>/<artifact>/{files, record.json}      finished; record.json is sent last
<url>/.unfinished/<artifact>/...           checkpoints and metrics of a training that is not done
<work_dir>/<name of the url>/<artifact>/   the same, here: made, or fetched
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cluster.host.console import say
from cluster.host.files import is_relative, sync, whole_file
from cluster.storage.errors import patiently
from cluster.storage.follow import mirrored
from cluster.storage.mirror import Mirror, Shape
from cluster.storage.objects import Objects, is_url, objects
from cluster.storage.transfer import Tree
from configs.base import UserError
from configs.cluster import StorageConfig
from pipeline.store.artifact import ATTEMPTS, RECORD, Record, kept_record, parse_record
from training.checkpoint import rollbacks
from training.checkpoint.retention import hold
from training.log import attempts_file as attempts
from training.log import metrics_file as metrics
from training.records import CHECKPOINT_FILE

UNFINISHED = ".unfinished"
_TRAINING = Shape(
    units="checkpoints",
    is_unit=lambda name: re.fullmatch(r"step-\d{8,}", name) is not None,
    last=CHECKPOINT_FILE,
    growing=(ATTEMPTS, metrics.FILE, attempts.FILE, rollbacks.FILE),
    hold=hold,
)


def home_of(store: str, work_dir: str) -> Path:
    """Where the artifacts of a store are on disk: the store itself, or for a URL its place in the work directory."""
    if not is_url(store):
        return Path(store).absolute()
    name = re.sub(r"[^A-Za-z0-9.]+", "-", store).strip("-.")[:60]
    return Path(work_dir).absolute() / f"{name}-{hashlib.sha256(store.encode()).hexdigest()[:8]}"


def remote_store(store: str, storage: StorageConfig) -> "RemoteStore | None":
    """The store behind a URL; None for a directory. Raises UserError if the protocol cannot be spoken."""
    if not is_url(store):
        return None
    return RemoteStore(store, objects(store), home_of(store, storage.work_dir), storage.num_transfers)


@dataclass(frozen=True)
class RemoteStore:
    """A store behind a URL, with its copy on disk. Raises UserError or InfrastructureError where the store refuses."""

    url: str
    store: Objects
    cache: Path
    num_transfers: int
    tell: Callable[[str], None] = say

    def check(self) -> None:
        """Raise UserError at once if the store cannot be written."""
        probe, impatient = f".probe-{uuid.uuid4().hex}", objects(self.url, num_tries=1)
        impatient.write(probe, b"")
        impatient.delete(probe)

    def has(self, artifact: str) -> bool:
        """Whether the artifact is there, finished."""
        return self.store.size(f"{artifact}/{RECORD}") is not None

    def fetch(self, artifact: str) -> bool:
        """Bring a finished artifact here, in place of unfinished work on it; False if there is none. Needs the lease.

        Every file is verified against the record. A fetch that was killed goes on where it was.
        """
        data = self.store.read(f"{artifact}/{RECORD}")
        if data is None:
            return False
        record = parse_record(data, where=f"{self.url}/{artifact}/{RECORD}")
        self._refuse_escape(artifact, record)
        staging, home = self.cache / ".fetching" / artifact, self.cache / artifact
        self._tree(artifact, record, staging).fetch(damaged=self._damaged(artifact))
        self._keep_ancestors(record)
        _keep_only(staging, record)
        with whole_file(staging / RECORD) as begun:
            begun.write_bytes(data)
        shutil.rmtree(home, ignore_errors=True)
        staging.rename(home)
        sync(self.cache)
        shutil.rmtree(self._damaged(artifact), ignore_errors=True)  # the second time it came right
        return True

    def publish(self, artifact: str, *, check: Callable[[], None] = lambda: None) -> None:
        """Send an artifact that is finished here, if it is not there. `check` is called before record.json is sent.

        A store that does not answer is waited for (errors.PATIENCE_SECONDS): what is finished is not to fail for that.
        """
        patiently(lambda: self._publish(artifact, check), tell=self.tell)

    def _publish(self, artifact: str, check: Callable[[], None]) -> None:
        """Send it. When two runs made it at once, both are right, and the first record that arrives stands.

        Whoever finds it stops, unless files of its own have meanwhile been written over those: then it sends all of its
        own, and its record.
        """
        home, name = self.cache / artifact, f"{artifact}/{RECORD}"
        data = (home / RECORD).read_bytes()
        record = parse_record(data, where=str(home / RECORD))
        if not self.has(artifact):
            tree = self._tree(artifact, record, home)
            sent = tree.send(wanted=lambda: not self.has(artifact))
            check()
            if not self.store.create(name, data):
                theirs = parse_record(self.store.read(name) or b"", where=f"{self.url}/{name}")
                if any(theirs.files.get(file) != record.files[file] for file in sent):
                    tree.send()
                    self.store.write(name, data)
        self._mirror(artifact).delete()

    def recover(self, artifact: str) -> None:
        """Bring unfinished work here if it is further than what is here: one more roll-back, or a newer checkpoint."""
        mirror, home = self._mirror(artifact), self.cache / artifact
        returns = mirror.read(rollbacks.FILE) or b""
        here = (len(rollbacks.read_rollbacks(home)), max(mirror.here(), default=""))
        if (returns.count(b"\n"), newest := mirror.newest()) > here and newest:
            self.tell(f"going on from {newest}, which {self.url} has kept")
            staging = self.cache / ".fetching" / f"{artifact}.unfinished"
            mirror.restore(staging=staging, damaged=self._damaged(artifact), tell=self.tell)

    def mirrored(self, artifact: str, *, check: Callable[[], None]) -> AbstractContextManager[None]:
        """Keep a copy of unfinished work there during the block."""
        return mirrored(self._mirror(artifact), check=check, tell=self.tell)

    def _refuse_escape(self, artifact: str, record: Record) -> None:
        for name in record.files:
            if not is_relative(name):
                raise UserError(
                    f"{self.url}/{artifact}/{RECORD} names the file {name!r}, which is not inside it; do not trust who "
                    f"wrote it, and delete {self.url}/{artifact} to have it made again"
                )

    def _keep_ancestors(self, record: Record) -> None:
        """Keep the records that lead to an artifact, so that its lineage is whole here too."""
        for name in (made_from.artifact for made_from in record.inputs.values()):
            path = kept_record(self.cache, name)
            if path.is_file() or (data := self.store.read(f"{name}/{RECORD}")) is None:
                continue
            self._keep_ancestors(parse_record(data, where=f"{self.url}/{name}/{RECORD}"))
            with whole_file(path) as begun:  # after those it was made from: so none is missing where it is there
                begun.write_bytes(data)

    def _mirror(self, artifact: str) -> Mirror:
        place = f"{UNFINISHED}/{artifact}"
        return Mirror(self.store, place, self.cache / artifact, _TRAINING, self.num_transfers)

    def _tree(self, artifact: str, record: Record, directory: Path) -> Tree:
        return Tree(self.store, artifact, directory, record.files, self.num_transfers)

    def _damaged(self, artifact: str) -> Path:
        return self.cache / ".damaged" / artifact


def _keep_only(directory: Path, record: Record) -> None:
    """Delete what an earlier fetch, of another record, may have left."""
    for top, _, names in os.walk(directory):
        for path in (Path(top, name) for name in names):
            if str(path.relative_to(directory)) not in record.files:
                path.unlink()
