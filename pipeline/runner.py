"""Walks a plan from the wanted outputs backwards: reuses what exists, then makes the rest in the plan's order.

It stops at the first failure. In that order all sources are cleaned before anything is made of them, so that what they
decide is known early. Where pools have room, steps that are ready are made beside (pipeline/followers.py).
"""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from cluster.executor import Executor
from cluster.host.console import print_line
from cluster.host.files import FileEntry, delete_partials, write_text
from cluster.leases.fence import Fence
from cluster.leases.lease import LeaseHeld, lease, store_lease
from cluster.placement import Placement
from cluster.storage.errors import error_class, explain_os_error
from cluster.storage.objects import ObjectStore
from configs.base import Artifact, Manifest, StartUpError, UserError
from configs.text import one_line
from data_prep.sources.document import Digest
from pipeline.followers import Beside, Given
from pipeline.graph.plan import Plan, PlannedStep
from pipeline.graph.stage import Stage
from pipeline.graph.wiring import all_inputs
from pipeline.store.artifact import BUILD_COUNT_FILE, Input, Record, commit, describe_files, load_artifact
from pipeline.store.provenance import code_version, package_versions
from pipeline.store.remote import RemoteStore


@dataclass
class Runner:
    """Makes what a plan wants in a store."""

    plan: Plan
    stages: Mapping[str, Stage]
    store: Path
    executor_for: Callable[[str], Executor]
    """From a pool's name."""

    digest: Digest
    """The SHA-256 of a source file, to see whether it changed while it was read."""

    on_begin: Callable[[PlannedStep], None] = lambda step: None
    on_end: Callable[[PlannedStep, Manifest, float | None], None] = lambda step, manifest, seconds: None
    """Called once for each step that was needed; the seconds are None for an artifact that was there already. Threads
    call these two, one at a time."""

    take_over: bool = False
    """Fence off another process that makes a step, and make it here."""

    remote: RemoteStore | None = None
    """What the store is the working copy of, if that is behind a URL."""

    has_room_beside: bool = False
    """Whether steps of two pools can be made at once, which takes workers."""

    join_cluster: Callable[[], None] = lambda: None
    """Called in this thread before steps of several pools are made: Ray lives as long as the thread that started it."""

    done: dict[str, Artifact[Manifest]] = field(default_factory=dict)
    _beside: Beside = field(init=False, repr=False)

    def run(self) -> dict[str, Artifact[Manifest]]:
        """Return the artifacts that were needed, by step name. Raises UserError at the first step that fails."""
        check_store(self.store, self._what, self._elsewhere)
        if self.remote is not None:
            self.remote.check()
        missing: set[str] = set()
        for name in self.plan.outputs:
            self._look_for(name, missing)
        pools = {self.plan.steps[name].pool for name in missing}
        has_room = self.has_room_beside and self.remote is None and len(pools) > 1
        if has_room:
            self.join_cluster()
        with Beside(
            self.plan, self.stages, self.store, self._make, missing, self.done, has_room=has_room
        ) as self._beside:
            for step in (step for name, step in self.plan.steps.items() if name in missing):
                if (inputs := self._beside.take_turn(step)) is not None:
                    self._beside.end_turn(step, self._make_at_turn(step, inputs))
        return self.done

    def _make_at_turn(self, step: PlannedStep, inputs: Mapping[str, Given]) -> Artifact[Manifest]:
        """Make a step; once again if it found no places while others were made beside it, which are waited for."""
        try:
            return self._make(step, inputs)
        except StartUpError as error:
            if isinstance(error, LeaseHeld) or not self._beside.wait_for_others():
                raise
            print_line(f"{one_line(error)}; what was made beside it has ended, so it is begun again")
        return self._make(step, inputs)

    def _look_for(self, name: str, missing: set[str]) -> None:
        """Find the artifact of a step, or add the step to what is missing, after its inputs, which it needs then."""
        if name in self.done or name in missing:
            return
        step = self.plan.steps[name]
        with _explained(step, self._elsewhere):
            artifact = self._find(step)
        if artifact is not None:
            self.done[name] = artifact
            self.on_end(step, artifact.manifest, None)
            return
        missing.add(name)
        for source in all_inputs(step.inputs):
            self._look_for(source, missing)

    def _find(self, step: PlannedStep) -> Artifact[Manifest] | None:
        """Return the artifact if it is finished, else None; a working copy fetches it, or publishes it."""
        path, kind = self.store / step.artifact, self.stages[step.stage].output
        artifact = load_artifact(path, kind)
        if self.remote is None:
            return artifact
        if artifact is not None:
            self.remote.publish(step.artifact)  # the run that made it may have been killed before it had
        elif self.remote.has(step.artifact):
            with lease(self.store, step.artifact, what=f"step {step.name!r}", take_over=self.take_over):
                self.remote.fetch(step.artifact)
            artifact = load_artifact(path, kind)
        return artifact

    def _make(self, step: PlannedStep, inputs: Mapping[str, Given]) -> Artifact[Manifest]:
        path, kind = self.store / step.artifact, self.stages[step.stage].output
        with (
            _explained(step, self._elsewhere),
            store_lease(
                self._objects, self.store, step.artifact, what=f"step {step.name!r}", take_over=self.take_over
            ) as fence,
        ):
            finished = load_artifact(path, kind)  # another run may have just made it, here or elsewhere
            if finished is None and self.remote is not None and self.remote.fetch(step.artifact):
                finished = load_artifact(path, kind)
            if finished is not None:
                manifest = finished.manifest
                self._beside.tell(lambda: self.on_end(step, manifest, None))
                return finished
            self._beside.tell(lambda: self.on_begin(step))
            if self.remote is not None:
                self.remote.recover(step.artifact)
            return self._run_and_commit(step, path, inputs, fence)

    def _run_and_commit(
        self, step: PlannedStep, path: Path, inputs: Mapping[str, Given], fence: Fence
    ) -> Artifact[Manifest]:
        num_builds = _count_build(path)
        started, clock = datetime.now(UTC), time.perf_counter()
        executor = self.executor_for(step.pool)
        try:
            with self._mirrored(step, fence):
                manifest = self._run_stage(step, path, inputs, executor, is_first=num_builds == 1)
        except UserError as error:
            raise type(error)(f"step {step.name!r}: {error}") from error
        seconds = round(time.perf_counter() - clock, 3)
        fence.check()
        delete_partials(path)
        digests = self.stages[step.stage].file_digests
        record = make_record(
            step,
            self.plan,
            manifest,
            files=describe_files(path, digests(path) if digests else None),
            started=started,
            seconds=seconds,
            attempts=num_builds,
            placement=executor.used_placement,
        )
        commit(path, record)
        (path / BUILD_COUNT_FILE).unlink()
        if self.remote is not None:
            self.remote.publish(step.artifact, check=fence.check_remote)
        self._beside.tell(lambda: self.on_end(step, manifest, seconds))
        return Artifact(path, manifest)

    @property
    def _objects(self) -> ObjectStore | None:
        return None if self.remote is None else self.remote.store

    @property
    def _what(self) -> str:
        return "the store" if self.remote is None else "the work directory"

    @property
    def _elsewhere(self) -> str:
        """How to have the files somewhere else on this machine."""
        if self.remote is None:
            return "give another store with --set store=DIR"
        return "give another directory as storage.work_dir in the cluster file (or --work-dir, where a command has it)"

    def _mirrored(self, step: PlannedStep, fence: Fence) -> AbstractContextManager[None]:
        return nullcontext() if self.remote is None else self.remote.mirrored(step.artifact, check=fence.check_remote)

    def _run_stage(
        self,
        step: PlannedStep,
        path: Path,
        inputs: Mapping[str, Given],
        executor: Executor,
        *,
        is_first: bool,
    ) -> Manifest:
        stage = self.stages[step.stage]
        cadence = {"cadence": step.cadence} if stage.has_cadence else {}
        # What was begun before has read it then, and may go on when it is changed or gone by now. What is read to the
        # end is compared there: once over 10^5 files is enough.
        reads_once = is_first and not stage.reads_to_the_end
        if reads_once and stage.observe and stage.observe(step.config, self.digest) != step.observed:
            raise UserError("what it reads has changed since this was planned; run this again once it is at rest")
        manifest = stage.run(step.config, **inputs, **cadence, out=path, executor=executor)
        if stage.reads_to_the_end and stage.observe and stage.observe(step.config, self.digest) != step.observed:
            shutil.rmtree(path)  # what was read is of neither state
            raise UserError("the sources changed while they were read; run this again once they are at rest")
        return manifest


def make_record(
    step: PlannedStep,
    plan: Plan,
    manifest: Manifest,
    *,
    files: dict[str, FileEntry],
    started: datetime,
    seconds: float,
    attempts: int,
    placement: Placement | None = None,
) -> Record:
    """Return the record of an artifact that this process has made, or describes."""

    def describe(name: str) -> Input:
        return Input(artifact=plan.steps[name].artifact, fingerprint=plan.steps[name].fingerprint)

    return Record(
        step=step.name,
        stage=step.stage,
        version=step.version,
        fingerprint=step.fingerprint,
        config=step.config.model_dump(mode="json"),
        observed=step.observed,
        inputs={
            slot: describe(given) if isinstance(given, str) else tuple(map(describe, given))
            for slot, given in step.inputs.items()
        },
        manifest=manifest.model_dump(mode="json"),
        files=files,
        started=started,
        seconds=seconds,
        attempts=attempts,
        placement=TypeAdapter(dict).dump_python(asdict(placement) if placement else {}, mode="json"),
        code=code_version(),
        packages=package_versions(),
        host=socket.gethostname(),
    )


def check_store(store: Path, what: str, elsewhere: str) -> None:
    """Raise UserError if the directory, which is `what`, cannot be written; `elsewhere` is the way out."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        probe = store / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise error_class(error)(f"{what} {store} cannot be written ({error.strerror}); {elsewhere}") from error


def _count_build(path: Path) -> int:
    """Return how often making the artifact at `path` was begun, this time included."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / BUILD_COUNT_FILE
    before = int(file.read_text(encoding="utf-8")) if file.exists() else 0
    write_text(file, str(before + 1))
    return before + 1


@contextmanager
def _explained(step: PlannedStep, elsewhere: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, where=f"step {step.name!r}", elsewhere=elsewhere) from error
