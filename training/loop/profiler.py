"""Records optimizer steps with torch.profiler, and writes a Chrome trace of them beside the metrics.

A step of a model of L layers in P passes has about 1,200 L P events on a CPU: 0.3 MB a layer and pass as JSON, 0.03 MB
as it is written. A GPU adds its kernels and their launches.
"""

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it says on standard error when it starts and stops
import torch
from torch.profiler import profile, record_function

from cluster.executor import Rank
from cluster.host.files import whole_file
from training.job import Job
from training.log.notices import Notices
from training.loop.watchdog import START_TIMEOUT_FACTOR, Watchdog
from training.zero.step_timing import Stopwatch

PROFILE = "profile"
"""Directory of the traces, in a training's artifact."""

MAX_TRACES = 8
"""So many ranks record: traces of all hosts of a large training would fill its disk, and show little more."""


class StepProfiler:
    """Records the steps that the job's cadence asks for. A context manager, whose end drops what is not complete."""

    def __init__(
        self, rank: Rank, job: Job, *, hosts: Sequence[str], stopwatch: Stopwatch, watchdog: Watchdog, notices: Notices
    ) -> None:
        """`hosts` has each rank's machine."""
        asked = job.cadence.profile_steps
        self._asked = range(asked[0], asked[1] + 1) if asked else range(0)
        self._rank, self._directory = rank.index, job.out / PROFILE
        self._records = rank.index in recording_ranks(hosts)
        self._stopwatch, self._watchdog, self._notices = stopwatch, watchdog, notices
        self._first = 0
        """The first step that is recorded; 0 while none is."""
        self._profile: profile | None = None

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def note_start(self, step: int) -> None:
        """Tell the user what cannot be recorded, of a training that goes on after `step`."""
        if step < self._asked.start or not self._asked or self._rank != 0:
            return
        asked, after = _words(self._asked), f"training goes on after step {step}"
        if step < self._asked[-1]:
            self._notices.add(f"of {asked} only those after step {step} are profiled, since {after}")
        elif not list(self._directory.glob(self._name("*"))):  # else an earlier start has recorded them
            self._notices.add(f"{asked} are not profiled, since {after}; give --profile later ones")

    @contextmanager
    def record(self, step: int) -> Iterator[None]:
        """Record the block, which takes `step`, if it is one of those asked for; after the last write. Collective."""
        if step not in self._asked:
            yield
            return
        if not self._first:
            with self._stopwatch.part("profile"):
                self._start(step)
        with record_function(f"step {step}"):
            yield
        if step == self._asked[-1]:
            self._stopwatch.label = nullcontext
            with self._stopwatch.part("profile"):
                self._finish()

    def drop(self) -> None:
        """Forget what is recorded: the steps are to be taken again, or training ends before the last of them."""
        self._stop()
        self._first = 0

    def _start(self, step: int) -> None:
        self._first = step
        if self._records:
            recording = profile()  # of the CPU and of what accelerator there is
            recording.start()
            self._profile, self._stopwatch.label = recording, record_function

    def _stop(self) -> profile | None:
        stopped, self._profile, self._stopwatch.label = self._profile, None, nullcontext
        if stopped is not None:
            stopped.stop()
        return stopped

    def _finish(self) -> None:
        """Write the trace. The other ranks wait for it here, where no step's timeout is over meanwhile."""
        self._watchdog.beat("the writing of a profile", timeout_factor=START_TIMEOUT_FACTOR)
        recorded, path = self._stop(), self._directory / self._name(self._first)
        if recorded is not None:
            try:
                write_trace(recorded, path)
            except OSError as error:
                self._notices.add(f"the profile {path} could not be written: {error}")
            else:
                words = _words(range(self._first, self._asked[-1] + 1))
                self._notices.add(f"rank {self._rank} has profiled {words}: {path}, for ui.perfetto.dev")
        torch.distributed.barrier()
        self._first, self._asked = 0, range(0)  # a roll-back that takes the steps again has nothing new to show

    def _name(self, first: int | str) -> str:
        return f"steps-{first}-{self._asked[-1]}-rank-{self._rank}.json.gz"


def write_trace(recorded: profile, path: Path) -> None:
    """Write what was recorded as a Chrome trace, whole or not at all. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="concord-profile-") as scratch:
        raw = Path(scratch, "trace.json")
        recorded.export_chrome_trace(str(raw))
        if not raw.exists():  # Kineto gives the file its name when it is whole, and else only logs that
            raise OSError(f"there is no room for it in {Path(scratch).parent}")
        with whole_file(path) as partial, raw.open("rb") as source, gzip.open(partial, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(source, packed, 1 << 20)


def recording_ranks(hosts: Sequence[str]) -> list[int]:
    """Return the ranks that record: the first of each of the first MAX_TRACES hosts, rank 0 being one of them."""
    return [hosts.index(host) for host in dict.fromkeys(hosts)][:MAX_TRACES]


def _words(steps: range) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
