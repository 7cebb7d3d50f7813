"""The step log, which rank 0 writes: metrics.jsonl, its copy on Weights & Biases, session events, straggler notices."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType

import torch

from cluster.devices import mean_peak_flops
from cluster.executor import Rank
from cluster.storage.errors import ignore_transient
from training.accelerator import peak_memory_bytes
from training.allocation.balance import FAR_BELOW, Balancer
from training.checkpoint.restore import Progress
from training.data.batches import Batch
from training.job import Job
from training.log.metrics_file import METRICS_FILE, MetricsFile, StepMetrics, Validation
from training.log.notices import Notices
from training.log.sessions_file import record_gang_start
from training.log.summary import parts_of_summary
from training.log.wandb_log import WandbLog
from training.loop.run_state import RunState
from training.loop.step import StepResult
from training.loop.stop_requests import note_slow_host
from training.network.compile import count_graphs
from training.records import OrderRecord
from training.sizing.flops import flops_per_token, mfu

NOT_USEFUL = ("checkpoint", "profile", "validation")
"""Parts of a step's time in which training waits for something else."""


@dataclass(frozen=True)
class _LoggedStep:
    """A step whose line is not written yet."""

    result: StepResult
    batch: Batch
    before: tuple[int, float] | None
    """The sequences of the step before, and those that the ranks would have computed in its time, each by itself: what
    their passes took is known only now. None where it is not."""

    progress: Progress
    first_place: int
    learning_rate: float
    seconds: dict[str, float]
    wall: float
    """Seconds from the end of the step before to its own."""

    validation: Validation | None
    """The validation after it, if there was one."""

    @property
    def useful_seconds(self) -> float:
        """Its wall time without what training waited for."""
        return self.wall - sum(self.seconds.get(part, 0.0) for part in NOT_USEFUL)


class StepLog:
    """Writes down each step. A context manager; only rank 0 has one."""

    def __init__(
        self,
        rank: Rank,
        job: Job,
        order: OrderRecord,
        notices: Notices,
        state: RunState,
        *,
        device: torch.device,
        hosts: list[str],
        devices: list[str],
    ) -> None:
        """Drop the metrics after the step that `state` is at, and record that the ranks have started.

        `hosts` and `devices` are the names of what they are on.
        """
        progress, built = state.progress, state.built
        self._out, self._notices, self._num_ranks, self._device = job.out, notices, rank.world_size, device
        self._flops_per_token = flops_per_token(
            built.config.to_dict(), built.shapes, sequence_length=job.config.sequence_length
        )
        self._peak_flops = mean_peak_flops(devices)
        self._bytes_per_token = {f"{s.source}/{s.language}": s.num_bytes / s.num_tokens for s in order.streams}
        self._streams = list(self._bytes_per_token)
        self._stragglers = StragglerDetector(hosts)
        self._is_shared_by_speed = job.placement.balance == "speed" and rank.world_size > 1
        self._slow_host: str | None = None
        self.file = MetricsFile(job.out / METRICS_FILE, step=progress.step)
        self._log_every_steps = job.cadence.log_every_steps
        self._ends_of_lines = parts_of_summary(state.first.step, job.config.total_steps)
        self._line: list[_LoggedStep] = []
        """The steps of the line that is under way."""
        self._last: _LoggedStep | None = None
        self._clock, self._num_graphs = time.perf_counter(), count_graphs()
        record_gang_start(
            job.out,
            session=job.session,
            step=progress.step,
            num_restarts=rank.num_restarts,
            world_size=rank.world_size,
            zero_stage=job.placement.zero_stage,
            hosts=hosts,
            device=", ".join(sorted(set(devices))),
            attention=built.traits.attention,
            lost_steps=self.file.lost_steps,
            lost_until=self.file.lost_until,
        )
        self._wandb = WandbLog(job.placement.wandb, job.out, name=job.out.name, notify=notices.add)

    def __enter__(self) -> "StepLog":
        self._wandb.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self.file):
            try:
                self.end_line()  # of steps that no checkpoint holds: they may show what went wrong
            finally:
                self._wandb.__exit__(kind, error, trace)

    def write_step(
        self,
        result: StepResult,
        batch: Batch,
        *,
        balancer: Balancer,
        progress: Progress,
        first_place: int,
        learning_rate: float,
        seconds: dict[str, float],
        validation: Validation | None,
    ) -> None:
        """Take down a step, `progress` being that after it; write its line if it is the last of one.

        `balancer` knows how fast the ranks are, each by itself.
        """
        own_rates, slowdown = balancer.sum_of_rates(result.pass_seconds), balancer.slowdown(result.pass_seconds)
        wall, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        last, before = self._last, None
        if last is not None and own_rates is not None:
            before = len(last.batch.stream), last.useful_seconds * own_rates
        self._last = _LoggedStep(result, batch, before, progress, first_place, learning_rate, seconds, wall, validation)
        self._line.append(self._last)
        ends = progress.step % self._log_every_steps == 0 or progress.step in self._ends_of_lines
        if ends or validation is not None:
            self.end_line()
        if slowdown is not None or not self._is_shared_by_speed:
            for text in self._stragglers.add_step(result.own_seconds, slowdown):
                self._notices.add(text)
        if (host := self._stragglers.slow_host) != self._slow_host:
            with ignore_transient():  # then it is noted after the next step
                note_slow_host(self._out, host)
                self._slow_host = host
        self._notices.flush()

    def end_line(self) -> None:
        """Write the line of the steps since the last, if there are any."""
        if self._line:
            line = self._sum_up(self._line)
            self._line = []
            self.file.append(line)
            self._wandb.log(line)

    def truncate_after(self, step: int) -> None:
        """Drop what was written of later steps."""
        self._line = []
        self.file.truncate_after(step)

    def _sum_up(self, steps: Sequence[_LoggedStep]) -> StepMetrics:
        counted = [step for step in steps if math.isfinite(step.result.loss)] or steps
        last, num_targets = steps[-1], sum(step.batch.num_targets for step in counted)
        read = [step.batch.targets_by_stream for step in counted]
        streams = set().union(*read)
        targets = {stream: sum(step.get(stream, 0) for step in read) for stream in self._streams if stream in streams}
        nats = {
            stream: sum(step.result.nats[number] for step in counted)
            for number, stream in enumerate(self._streams)
            if stream in streams
        }
        loss = sum(step.result.loss * step.batch.num_targets for step in counted) / num_targets
        num_bytes = sum(self._bytes_per_token[stream] * n for stream, n in targets.items())
        useful = sum(step.useful_seconds for step in steps)
        speed = num_targets / useful
        before = self.file.last.useful_seconds if self.file.last else 0.0
        return StepMetrics(
            step=last.progress.step,
            num_steps=len(steps),
            loss=loss,
            bits_per_byte=loss * num_targets / (math.log(2) * num_bytes),
            nats=nats,
            targets=targets,
            terms=_mean_terms(counted),
            expert_load=_expert_load(last.result.expert_counts),
            validation=last.validation,
            learning_rate=last.learning_rate,
            gradient_norm=_largest([step.result.gradient_norm for step in steps]),
            gradient_norms=next((s.result.gradient_norms for s in reversed(steps) if s.result.gradient_norms), {}),
            updated=all(step.result.updated for step in steps),
            num_skipped=last.progress.num_skipped,
            num_rollbacks=last.progress.num_rollbacks,
            first_place=steps[0].first_place,
            num_tokens=last.progress.num_tokens,
            tokens_per_second=round(speed, 1),
            useful_seconds=round(before + useful, 3),
            eta=_eta(steps),
            mfu=mfu(speed / self._num_ranks, flops_per_token=self._flops_per_token, peak=self._peak_flops),
            graphs_compiled=self._count_new_graphs(),
            memory_bytes=peak_memory_bytes(self._device),
            seconds=_sum_by_key(step.seconds for step in steps),
            time=time.time(),
        )

    def _count_new_graphs(self) -> int:
        before, self._num_graphs = self._num_graphs, count_graphs()
        return self._num_graphs - before

    def start_clock(self) -> None:
        """Start the wall time of the next step now."""
        self._clock = time.perf_counter()


def _eta(steps: Sequence[_LoggedStep]) -> float | None:
    """Return the sequences of the steps, each being that before, over those that the ranks would have computed."""
    known = [step.before for step in steps if step.before]
    own = sum(own for _, own in known)
    return round(sum(number for number, _ in known) / own, 4) if own else None


def _mean_terms(steps: Sequence[_LoggedStep]) -> dict[str, float]:
    num_targets = sum(step.batch.num_targets for step in steps)
    return {
        name: sum(step.result.terms[name] * step.batch.num_targets for step in steps) / num_targets
        for name in steps[0].result.terms
    }


def _expert_load(counts: list[list[float]]) -> dict[str, list[float]]:
    """Return the load of each layer's busiest and idlest expert as a multiple of the mean; nothing without experts."""
    if not counts:
        return {}
    means = [sum(layer) / len(layer) or 1.0 for layer in counts]
    return {
        which.__name__: [round(which(layer) / mean, 3) for layer, mean in zip(counts, means, strict=True)]
        for which in (max, min)
    }


def _largest(norms: Sequence[float]) -> float:
    """Return the largest finite norm; that of the last step if none is."""
    return max(filter(math.isfinite, norms), default=norms[-1])


def _sum_by_key(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums = defaultdict[str, float](float)
    for part in parts:
        for name, value in part.items():
            sums[name] += value
    return {name: round(value, 4) for name, value in sums.items()}


class StragglerDetector:
    """Finds ranks that are slower than the others, by the time that they take without waiting.

    Where sequences are shared by speed, what counts is how many times as long as its type was measured to take a rank
    takes, against the others: one that is slower gets less to do, and only one that is far below its type (FAR_BELOW)
    had better be left out.
    """

    WINDOW_STEPS = 20
    RATIO = 1.5
    """A straggler's median step takes so many times that of the median rank."""

    NUM_WINDOWS = 3
    """A host whose ranks are stragglers so many windows in a row stays slow: it had better be left out."""

    def __init__(self, hosts: list[str]) -> None:
        self._hosts = hosts
        self._window: list[Sequence[float]] = []
        self._stragglers: set[int] = set()
        self._num_windows: dict[int, int] = {}
        """For how many windows in a row a rank has been a straggler."""

        self.slow_host: str | None = None
        """A host with a rank that has been a straggler for the last NUM_WINDOWS windows or more."""

    def add_step(self, own_seconds: Sequence[float], slowdown: Sequence[float] | None = None) -> list[str]:
        """Add a step's seconds by rank; return a sentence about each rank that became a straggler.

        `slowdown` is how many times as long as its type each took, where sequences are shared by speed. Ranks are
        compared once in WINDOW_STEPS steps, over all steps since the last comparison.
        """
        self._window.append(own_seconds if slowdown is None else slowdown)
        if len(self._window) < self.WINDOW_STEPS or len(self._hosts) < 2:
            return []
        medians = [sorted(column)[len(column) // 2] for column in zip(*self._window, strict=True)]
        self._window.clear()
        usual = sorted(medians)[(len(medians) - 1) // 2]
        slow = {rank for rank, seconds in enumerate(medians) if seconds > self.RATIO * usual and usual > 0}
        new, self._stragglers = slow - self._stragglers, slow
        far = slow if slowdown is None else {rank for rank in slow if medians[rank] > FAR_BELOW * usual}
        self._num_windows = {rank: self._num_windows.get(rank, 0) + 1 for rank in far}
        steadily = [self._hosts[rank] for rank, number in self._num_windows.items() if number >= self.NUM_WINDOWS]
        self.slow_host = min(steadily, default=None)
        others = "which all wait for", "as the others"
        if slowdown is not None:
            others = "which gets less to do", "as was measured of its type, against the others"
        return [
            f"rank {rank} on {self._hosts[rank]} is a straggler, {others[0]}: over {self.WINDOW_STEPS} steps it took "
            f"{medians[rank] / usual:.1f} times as long {others[1]}"
            for rank in sorted(new)
        ]
