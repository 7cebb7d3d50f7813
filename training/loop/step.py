"""One optimizer step on one rank: forward and backward passes, and the one collective that shares all numbers."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from cluster.executor import Rank
from training.data.batches import Batch, Batches, MicroBatch
from training.loop.stop_requests import TrainingRequests
from training.loop.watchdog import Watchdog
from training.zero.engine import take_optimizer_step
from training.zero.step_timing import Stopwatch


@dataclass(frozen=True)
class RankStatus:
    """What a rank shares with the others in a step, beside its losses."""

    requests: TrainingRequests
    """What this rank was asked for."""

    save_failed: bool
    """Whether it could not write its part of the checkpoint under way."""

    own_seconds: float
    """Time that its step before took, without waiting for others."""


@dataclass(frozen=True)
class StepResult:
    """The numbers of a step, equal on all ranks."""

    loss: float
    """Mean over the step's targets, nats a token."""

    nats: list[float]
    """Sum of the token losses by stream."""

    gradient_norm: float
    """Norm of the global gradient before clipping."""

    updated: bool
    """Whether the weights were updated: loss and gradient were finite."""

    requests: TrainingRequests
    """What any rank was asked for."""

    num_failed_saves: int
    """Ranks that could not write their part of the checkpoint under way."""

    own_seconds: list[float]
    """RankStatus.own_seconds by rank."""


class Stepper:
    """Runs optimizer steps of one engine."""

    def __init__(
        self,
        engine: Any,
        batches: Batches,
        rank: Rank,
        device: torch.device,
        *,
        micro_batch_size: int,
        max_gradient_norm: float,
        stopwatch: Stopwatch,
    ) -> None:
        self._engine, self._batches, self._rank, self._device = engine, batches, rank, device
        self._micro_batch_size, self._stopwatch = micro_batch_size, stopwatch
        self._max_gradient_norm = max_gradient_norm

    def run_step(self, batch: Batch, status: RankStatus, watchdog: Watchdog, *, timeout_factor: float) -> StepResult:
        """Run one step: the gradient is the mean over the batch's targets, whatever each rank's share. Collective.

        Each pass may take `timeout_factor` times the watchdog's timeout.
        """
        with self._stopwatch.part("data"):
            micro_batches = self._read_micro_batches(batch)
        nats = torch.zeros(len(self._batches.streams), dtype=torch.float64, device=self._device)
        for i, micro_batch in enumerate(micro_batches):
            name = f"a forward and backward pass, {i + 1} of {len(micro_batches)}"
            watchdog.beat(name, timeout_factor=timeout_factor)
            self._engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
            with self._stopwatch.part("forward"):
                objective, row_nats = self._engine(*self._copy_to_device(micro_batch))
            with self._stopwatch.part("backward"):
                self._engine.backward(objective / batch.num_targets, scale_wrt_gas=False)
            streams = torch.from_numpy(micro_batch.streams).to(self._device)
            nats.index_add_(0, streams, row_nats.double())
        with self._stopwatch.part("communication"):
            numbers = self._sum_over_ranks(nats, status)
        by_stream = numbers[: len(self._batches.streams)]
        loss = sum(by_stream) / batch.num_targets
        watchdog.beat("the optimizer's step", timeout_factor=timeout_factor)
        with self._stopwatch.part("optimizer"):
            norm, updated = take_optimizer_step(
                self._engine, loss_is_finite=math.isfinite(loss), max_gradient_norm=self._max_gradient_norm
            )
        stop, save, resize, failed, *own_seconds = numbers[len(by_stream) :]
        requests = TrainingRequests(stop > 0, save > 0, resize > 0)
        return StepResult(loss, by_stream, norm, updated, requests, int(failed), own_seconds)

    def _read_micro_batches(self, batch: Batch) -> list[MicroBatch]:
        rank, world_size = self._rank.index, self._rank.world_size
        return list(self._batches.micro_batches(batch, rank=rank, world_size=world_size, size=self._micro_batch_size))

    def _copy_to_device(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, lengths = torch.from_numpy(micro_batch.tokens), torch.from_numpy(micro_batch.lengths)
        return tokens.to(self._device, non_blocking=True), lengths.to(self._device, non_blocking=True)

    def _sum_over_ranks(self, nats: torch.Tensor, status: RankStatus) -> list[float]:
        """Return sums over ranks: the nats by stream, each request, failed saves; then own seconds by rank."""
        own = torch.zeros(self._rank.world_size, dtype=torch.float64)
        own[self._rank.index] = status.own_seconds
        requests = status.requests
        flags = torch.tensor([requests.stop, requests.save, requests.resize, status.save_failed], dtype=torch.float64)
        vector = torch.cat([nats, flags.to(self._device), own.to(self._device)])
        torch.distributed.all_reduce(vector)
        numbers: list[float] = vector.tolist()
        return numbers
