"""What rank 0 writes down: metrics.jsonl, its copy on Weights & Biases, attempts, stragglers."""

import math
import time
from types import TracebackType

from cluster.executor import Rank
from training.checkpoint.restore import Progress
from training.data.batches import Batch
from training.job import Job
from training.log.attempts_file import begin_attempt
from training.log.metrics_file import FILE, MetricsFile, StepMetrics, read_metrics
from training.log.notices import Notices
from training.log.wandb_log import WandbLog
from training.loop.step import Outcome, Stragglers
from training.records import OrderRecord
from training.sizing.flops import mfu


class Scribe:
    """A context manager; only rank 0 has one."""

    def __init__(
        self,
        rank: Rank,
        job: Job,
        order: OrderRecord,
        notices: Notices,
        *,
        progress: Progress,
        device: str,
        hosts: list[str],
        flops_per_token: float | None,
        peak: float | None,
    ) -> None:
        """`flops_per_token`: None if the model's are not known; `peak`: FLOPs a second of one device, None likewise."""
        self._notices, self._num_ranks = notices, rank.world_size
        self._flops_per_token, self._peak = flops_per_token, peak
        self._bytes_per_token = {f"{s.source}/{s.language}": s.num_bytes / s.num_tokens for s in order.streams}
        self._streams = list(self._bytes_per_token)
        self._stragglers = Stragglers(hosts)
        self.file = MetricsFile(job.out / FILE, step=progress.step)
        self._clock = time.perf_counter()
        begin_attempt(
            job.out,
            session=job.session,
            step=progress.step,
            attempt=rank.attempt,
            world_size=rank.world_size,
            zero_stage=job.placement.zero_stage,
            hosts=hosts,
            device=device,
            lost_steps=self.file.lost_steps,
            lost_until=self.file.lost_until,
        )
        so_far = read_metrics(job.out / FILE)
        self._wandb = WandbLog(job.placement.wandb, job.out, name=job.out.name, so_far=so_far)

    def __enter__(self) -> "Scribe":
        self._wandb.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wandb.__exit__(kind, error, trace)
        self.file.close()

    def write(
        self,
        outcome: Outcome,
        batch: Batch,
        *,
        progress: Progress,
        first_place: int,
        learning_rate: float,
        seconds: dict[str, float],
        memory: int,
    ) -> None:
        """Write down a step."""
        wall, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        rate = batch.num_targets / (wall - seconds.get("checkpoint", 0.0))
        num_bytes = sum(self._bytes_per_token[stream] * n for stream, n in batch.targets_by_stream.items())
        line = StepMetrics(
            step=progress.step,
            loss=outcome.loss,
            bits_per_byte=outcome.loss * batch.num_targets / (math.log(2) * num_bytes),
            nats={s: n for s, n in zip(self._streams, outcome.nats, strict=True) if s in batch.targets_by_stream},
            targets=batch.targets_by_stream,
            learning_rate=learning_rate,
            gradient_norm=outcome.gradient_norm,
            updated=outcome.updated,
            num_skipped=progress.num_skipped,
            num_rollbacks=progress.num_rollbacks,
            first_place=first_place,
            num_tokens=progress.num_tokens,
            tokens_per_second=round(rate, 1),
            mfu=mfu(rate / self._num_ranks, flops_per_token=self._flops_per_token, peak=self._peak),
            memory_bytes=memory,
            seconds=seconds,
            time=time.time(),
        )
        self.file.append(line)
        self._wandb.log(line)
        for text in self._stragglers.look(outcome.own_seconds):
            self._notices.tell(text)
        self._notices.retry()

    def start_clock(self) -> None:
        """The next step begins now."""
        self._clock = time.perf_counter()
