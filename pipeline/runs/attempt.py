"""One attempt of a run: the work that its process does, and the process as the driver that starts it sees it.

The driver (pipeline/runs/driver.py) starts `concord attempt`, whose process calls `make_attempt`.
"""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from cluster.host.console import print_safely
from cluster.host.files import write_text
from cluster.host.redact import redact
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.runs.directory import RunDirectory, StartRecord
from pipeline.runs.retry import Outcome, classify_exit

_SENTENCE = "concord: "
"""The beginning of the sentence with which the command ends when it fails (pipeline/cli/app.py)."""

_LAST_LINES = 20
"""So many of the last lines are kept, in which that sentence is looked for."""

_SECONDS_TO_DIE = 10.0
"""How long a killed process is waited for."""

MARGIN_SECONDS = 10.0
"""What an attempt gets beyond its grace, for what it does after it has saved."""

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def make_attempt(
    directory: RunDirectory, start: StartRecord, machines: ClusterConfig, out: Console, *, take_over: bool
) -> None:
    """Run the recipe that was submitted; go on where the attempt before ended. Raises UserError as `concord run`."""
    from pipeline.prepare import prepare, with_profile  # here, for a driver imports this module and is to stay light
    from pipeline.recipe import read_recipe
    from pipeline.run import run_prepared

    loaded = read_recipe(write_recipe(directory), ())
    ready = with_profile(prepare(loaded, machines.storage, builds_models=False), start.profile)
    check_artifacts(start, {step.name: step.artifact for step in ready.plan.steps.values()})
    run_prepared(
        ready,
        machines,
        start.cluster_name,
        out,
        failures=directory.path / "node-failures.jsonl",
        avoid=frozenset(start.avoid),
        take_over=take_over,
    )


def write_recipe(directory: RunDirectory) -> Path:
    """Write the recipe that was submitted into a file on this machine, and return its path."""
    run = directory.run()
    assert run is not None
    path = directory.path / "recipe.yaml"
    write_text(path, run.model_dump_json(include={"recipe"})[len('{"recipe":') : -1])  # JSON is YAML
    return path


def check_artifacts(start: StartRecord, planned: dict[str, str]) -> None:
    """Raise UserError if the recipe would now make another artifact than when the run was started."""
    if changed := [name for name, artifact in start.artifacts.items() if planned.get(name) != artifact]:
        raise UserError(
            f"step {changed[0]!r} would make {planned.get(changed[0])} now, and not {start.artifacts[changed[0]]} as "
            "when the run was started, because its sources or this code have changed since; put them back, or submit "
            "the recipe again under another --id"
        )


def end_with_parent() -> None:
    """Have this process sent SIGTERM when its parent dies, however that dies."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:  # it died before that
        os.kill(os.getpid(), signal.SIGTERM)


class AttemptProcess:
    """The process of an attempt, which is ended when the block is left. Its output is passed on without secrets."""

    def __init__(self, command: Sequence[str], *, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        # A session of its own: what is sent to the driver's process group would reach it twice.
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._asked_at: float | None = None
        self._killed = False
        self._reader = threading.Thread(target=self._pass_on_output, name="output", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            if not self.wait(self._grace_seconds):
                self._process.kill()
                self.wait(_SECONDS_TO_DIE)

    @property
    def exit_code(self) -> int:
        """The exit code of the process, which must have ended; the negated number of the signal that ended it."""
        assert self._process.returncode is not None
        return self._process.returncode

    def wait(self, seconds: float) -> bool:
        """Wait for its end for at most so long; return whether it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            self._reader.join(seconds)  # what it left running may hold the pipe open
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Ask it to save and end, the first time; once its grace is over, kill it and what it left in its session."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self.send(signal.SIGTERM)
        elif time.monotonic() > self._asked_at + self._grace_seconds + MARGIN_SECONDS and not self._killed:
            self._killed = True
            os.killpg(self._process.pid, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """Return how it ended."""
        if self._asked_at is not None and (self._killed or self.exit_code in (signal.SIGTERM, -signal.SIGTERM)):
            return "preempted"  # before it could say so itself
        return classify_exit(self.exit_code, explained=any(line.startswith(_SENTENCE) for line in self._last))

    def reason(self) -> str:
        """Return what it said at its end, or else what ended it."""
        said = [line.removeprefix(_SENTENCE) for line in self._last if line.startswith(_SENTENCE)]
        if self._killed:
            return f"it did not end within {self._grace_seconds:g} s of grace and was killed"
        if said:
            return said[-1]
        if self.exit_code < 0:
            return f"the attempt's process was ended by {signal.Signals(-self.exit_code).name}"
        return self._last[-1] if self._last and self.exit_code else ""

    def _pass_on_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            clean = redact(line.rstrip("\n"))
            self._last.append(clean)
            print_safely(clean)
