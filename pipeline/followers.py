"""Steps that are made beside the one of the main thread, each in a thread of its own.

Artifacts are whole or not there, and a killed stage goes on where it was: so a thread may be left behind when the run
ends, as if it had been killed.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from cluster.host.console import print_line
from configs.base import Abandoned, Artifact, Manifest, Unfinished
from configs.text import one_line
from pipeline.graph.plan import Plan, PlannedStep
from pipeline.graph.stage import Stage
from pipeline.graph.wiring import as_names
from pipeline.store.artifact import load_artifact

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 2.0
"""How long a run that has failed waits for its threads to end: Ray ends a process in which one asks it for something
after it was left, with an exit code of its own."""

Given = Artifact[Manifest] | tuple[Artifact[Manifest], ...] | Unfinished[Manifest]
"""What fills a slot of a stage."""

FileState = tuple[int, int] | None
"""A file's bytes and its time; None if it is not there."""


@dataclass(frozen=True)
class _Turn:
    """The step of the main thread."""

    step: PlannedStep
    progress: Path | None
    """The stage's progress file, if it has one."""

    before: FileState
    """Its state before the step was begun."""

    def has_its_places(self) -> bool:
        return self.progress is None or _state_of(self.progress) not in (None, self.before)


class Beside:
    """Begins steps beside the one of the main thread, which asks it for its turns; a context manager.

    A step is begun when all that it takes is made, or is being made by the main thread's step, if it follows that
    (`Stage.follows`), and when neither that nor another beside it has its pool. The first in the plan's order comes
    first. One that fails is not begun beside again: the main thread makes it at its turn. A step whose stage has a
    progress file is made by the main thread alone: it saves its work at a signal, and no other thread hears of one.

    Pools may share nodes. While the main thread's step has a progress file, nothing is begun before that file grows:
    then it has its places, of which it may need all. Other stages take places one by one, as these become free, so
    beside them a step is begun at once. It may still hold places when the next turn is that of a step which needs
    them together: one that waits for them in vain is begun again alone (`wait_for_others`).
    """

    def __init__(
        self,
        plan: Plan,
        stages: Mapping[str, Stage],
        store: Path,
        make: Callable[[PlannedStep, Mapping[str, Given]], Artifact[Manifest]],
        missing: Collection[str],
        done: dict[str, Artifact[Manifest]],
        *,
        has_room: bool,
    ) -> None:
        """`missing` names the steps to `make`; what is made is added to `done`. Without room nothing is begun."""
        self._plan, self._stages, self._store, self._make = plan, stages, store, make
        self._missing, self._has_room = missing, has_room
        self._main = threading.current_thread()
        self._telling = threading.Lock()
        self._changed = threading.Condition()
        # What it guards:
        self._done = done
        self._turn: _Turn | None = None
        self._making: dict[str, PlannedStep] = {}
        self._threads: set[threading.Thread] = set()
        self._failed: set[str] = set()
        self._refusal: BaseException | None = None
        self._is_over = False

    def __enter__(self) -> "Beside":
        if self._has_room:
            threading.Thread(target=self._watch, name="beside", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin nothing more; where the run has failed, have what is made beside end, within SECONDS_TO_END."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            _abandon(thread)
        deadline = time.monotonic() + SECONDS_TO_END
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def take_turn(self, step: PlannedStep) -> dict[str, Given] | None:
        """Wait until nothing beside the main thread makes the step, or has its pool; return what the step takes.

        Returns None if it was made beside. Raises what a callback raised there.
        """
        with self._changed:
            self._turn = self._turn_of(step)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._refusal or not self._is_in_use(step, self._making.values()))
            if self._refusal:
                raise self._refusal
            return None if step.name in self._done else self._find_inputs(step)

    def end_turn(self, step: PlannedStep, made: Artifact[Manifest]) -> None:
        """Note what the main thread has made. Until its next turn, which may need all places, nothing is begun."""
        with self._changed:
            self._done[step.name], self._turn = made, None

    def wait_for_others(self) -> bool:
        """Wait for what is made beside the main thread's step, which found no places, so that it has them to itself.

        Returns whether that may help: False where nothing is made beside, or the step had its places before.
        """
        with self._changed:
            turn, self._turn = self._turn, None
            if not self._making or turn is None or (turn.progress and turn.has_its_places()):
                return False
            self._changed.wait_for(lambda: self._refusal or not self._making)
            if self._refusal:
                raise self._refusal
            self._turn = turn if turn.progress else None  # else others would take the places again
            return True

    def tell(self, callback: Callable[[], None]) -> None:
        """Call back, for one step at a time. What that raises beside the main thread ends the run at its next turn.

        Raises Abandoned where the run has ended.
        """
        with self._telling:
            if self._is_over:
                raise Abandoned
            try:
                callback()
            except BaseException as error:
                if threading.current_thread() is self._main:
                    raise
                with self._changed:
                    self._refusal = self._refusal or error
                    self._changed.notify_all()

    def _turn_of(self, step: PlannedStep) -> _Turn:
        name = self._stages[step.stage].progress_file
        progress = self._store / step.artifact / name if name else None
        return _Turn(step, progress, _state_of(progress) if progress else None)

    def _watch(self) -> None:
        with self._changed:
            while not self._is_over:
                if self._turn is not None and self._refusal is None and self._turn.has_its_places():
                    self._begin_ready(self._turn)
                self._changed.wait(SECONDS_BETWEEN_LOOKS)

    def _begin_ready(self, turn: _Turn) -> None:
        for name, step in self._plan.steps.items():
            if name not in self._missing or name in self._done or name in self._failed:
                continue
            is_in_use = self._is_in_use(step, (turn.step, *self._making.values()))
            if is_in_use or self._stages[step.stage].progress_file:
                continue
            inputs = self._find_inputs(step, leader=turn.step if turn.progress else None)
            if inputs is not None:
                thread = threading.Thread(target=self._run, args=(step, inputs), name=f"step {name}", daemon=True)
                thread.start()
                self._threads.add(thread)
                self._making[name] = step

    @staticmethod
    def _is_in_use(step: PlannedStep, others: Collection[PlannedStep]) -> bool:
        """Return whether another has a step's pool, or makes the same artifact under any name."""
        return any(step.pool == other.pool or step.artifact == other.artifact for other in others)

    def _find_inputs(self, step: PlannedStep, leader: PlannedStep | None = None) -> dict[str, Given] | None:
        """Return what a step takes; None if some of it is neither made nor the leader's, which it follows."""
        stage, inputs = self._stages[step.stage], dict[str, Given]()
        for slot, names in step.inputs.items():
            if self._done.keys() >= set(as_names(names)):
                inputs[slot] = self._done[names] if isinstance(names, str) else tuple(self._done[one] for one in names)
            elif leader and names == leader.name and stage.slots[slot].may_be_unfinished and stage.follows(step.config):
                path, kind = self._store / leader.artifact, self._stages[leader.stage].output
                inputs[slot] = Unfinished(path, partial(self._find_manifest, path, kind))
            else:
                return None
        return inputs

    def _find_manifest(self, leader: Path, kind: type[Manifest]) -> Manifest | None:
        if self._is_over:
            raise Abandoned
        found = load_artifact(leader, kind)
        return found.manifest if found else None

    def _run(self, step: PlannedStep, inputs: Mapping[str, Given]) -> None:
        with suppress(Abandoned):
            made = self._try(step, inputs)
            with self._changed:
                self._threads.discard(threading.current_thread())
                del self._making[step.name]
                if made is None:
                    self._failed.add(step.name)
                else:
                    self._done[step.name] = made
                self._changed.notify_all()

    def _try(self, step: PlannedStep, inputs: Mapping[str, Given]) -> Artifact[Manifest] | None:
        try:
            return self._make(step, inputs)
        except BaseException as error:  # of whatever kind: the run goes on, and makes the step again at its turn
            if not self._is_over:
                why = one_line(error).removeprefix(f"step {step.name!r}: ")
                print_line(f"step {step.name!r} stopped beside another, and is begun again at its turn: {why}")
            return None


def _abandon(thread: threading.Thread) -> None:
    """Raise Abandoned in a thread, once it is in Python code."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Abandoned))


def _state_of(file: Path) -> FileState:
    with suppress(OSError):
        stat = file.stat()
        return stat.st_size, stat.st_mtime_ns
    return None
