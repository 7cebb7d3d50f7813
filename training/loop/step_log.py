"""The step log, which rank 0 writes: metrics.jsonl, its copy on Weights & Biases, session events, straggler notices."""

import math
import platform
import resource
import time
from types import TracebackType

import torch

from cluster.devices import peak_flops
from cluster.executor import Rank
from training.checkpoint.restore import Progress
from training.data.batches import Batch
from training.job import Job
from training.log.metrics_file import METRICS_FILE, MetricsFile, StepMetrics, read_metrics
from training.log.notices import Notices
from training.log.sessions_file import record_gang_start
from training.log.wandb_log import WandbLog
from training.loop.step import StepResult
from training.records import OrderRecord
from training.sizing.flops import mfu


class StepLog:
    """Writes down each step. A context manager; only rank 0 has one."""

    def __init__(
        self,
        rank: Rank,
        job: Job,
        order: OrderRecord,
        notices: Notices,
        *,
        progress: Progress,
        device: torch.device,
        hosts: list[str],
        flops_per_token: float | None,
    ) -> None:
        """Drop the metrics after `progress`, and record that the ranks, on `hosts`, have started.

        `flops_per_token` is None if the model's are not known.
        """
        self._notices, self._num_ranks, self._device = notices, rank.world_size, device
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops(device_name(device))
        self._bytes_per_token = {f"{s.source}/{s.language}": s.num_bytes / s.num_tokens for s in order.streams}
        self._streams = list(self._bytes_per_token)
        self._stragglers = StragglerDetector(hosts)
        self.file = MetricsFile(job.out / METRICS_FILE, step=progress.step)
        self._clock = time.perf_counter()
        record_gang_start(
            job.out,
            session=job.session,
            step=progress.step,
            num_restarts=rank.num_restarts,
            world_size=rank.world_size,
            zero_stage=job.placement.zero_stage,
            hosts=hosts,
            device=device_name(device),
            lost_steps=self.file.lost_steps,
            lost_until=self.file.lost_until,
        )
        so_far = read_metrics(job.out / METRICS_FILE)
        self._wandb = WandbLog(job.placement.wandb, job.out, name=job.out.name, so_far=so_far)

    def __enter__(self) -> "StepLog":
        self._wandb.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wandb.__exit__(kind, error, trace)
        self.file.close()

    def write_step(
        self,
        result: StepResult,
        batch: Batch,
        *,
        progress: Progress,
        first_place: int,
        learning_rate: float,
        seconds: dict[str, float],
    ) -> None:
        """Write down a step; `progress` is that after it."""
        wall, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        tokens_per_second = batch.num_targets / (wall - seconds.get("checkpoint", 0.0))
        num_bytes = sum(self._bytes_per_token[stream] * n for stream, n in batch.targets_by_stream.items())
        line = StepMetrics(
            step=progress.step,
            loss=result.loss,
            bits_per_byte=result.loss * batch.num_targets / (math.log(2) * num_bytes),
            nats={s: n for s, n in zip(self._streams, result.nats, strict=True) if s in batch.targets_by_stream},
            targets=batch.targets_by_stream,
            learning_rate=learning_rate,
            gradient_norm=result.gradient_norm,
            updated=result.updated,
            num_skipped=progress.num_skipped,
            num_rollbacks=progress.num_rollbacks,
            first_place=first_place,
            num_tokens=progress.num_tokens,
            tokens_per_second=round(tokens_per_second, 1),
            mfu=mfu(tokens_per_second / self._num_ranks, flops_per_token=self._flops_per_token, peak=self._peak_flops),
            memory_bytes=peak_memory_bytes(self._device),
            seconds=seconds,
            time=time.time(),
        )
        self.file.append(line)
        self._wandb.log(line)
        for text in self._stragglers.add_step(result.own_seconds):
            self._notices.add(text)
        self._notices.flush()

    def start_clock(self) -> None:
        """Start the wall time of the next step now."""
        self._clock = time.perf_counter()


def device_name(device: torch.device) -> str:
    """Return the name of a GPU as its driver gives it, or the architecture of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held so far: of the GPU, or resident without one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


class StragglerDetector:
    """Finds ranks that are slower than the others, by the time that they take without waiting."""

    WINDOW_STEPS = 20
    RATIO = 1.5
    """A straggler's median step takes so many times that of the median rank."""

    def __init__(self, hosts: list[str]) -> None:
        self._hosts = hosts
        self._window: list[list[float]] = []
        self._stragglers: set[int] = set()

    def add_step(self, own_seconds: list[float]) -> list[str]:
        """Add a step's seconds by rank; return a sentence about each rank that became a straggler.

        Ranks are compared once in WINDOW_STEPS steps, over all steps since the last comparison.
        """
        self._window.append(own_seconds)
        if len(self._window) < self.WINDOW_STEPS or len(self._hosts) < 2:
            return []
        medians = [sorted(column)[len(column) // 2] for column in zip(*self._window, strict=True)]
        self._window.clear()
        usual = sorted(medians)[(len(medians) - 1) // 2]
        slow = {rank for rank, seconds in enumerate(medians) if seconds > self.RATIO * usual and usual > 0}
        new, self._stragglers = slow - self._stragglers, slow
        return [
            f"rank {rank} on {self._hosts[rank]} is a straggler, which all wait for: over {self.WINDOW_STEPS} steps it "
            f"took {medians[rank] / usual:.1f} times as long as the others"
            for rank in sorted(new)
        ]
