"""One optimizer step on one rank: forward and backward passes, and the one collective that shares all numbers."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from cluster.executor import Rank
from configs.training import TrainConfig
from training.data.batches import Batch, Batches, MicroBatch
from training.loop.stop_requests import TrainingRequests
from training.loop.watchdog import Watchdog
from training.network.packed_lm import TERMS, PackedLoss
from training.network.router_losses import StepRouting, balance_of_batch
from training.zero.engine import take_optimizer_step
from training.zero.gradient_norms import take_gradient_norms
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

    gradient_norms: dict[str, float]
    """The same by part of the model (training/zero/gradient_norms.py); empty unless they were asked for."""

    updated: bool
    """Whether the weights were updated: loss and gradient were finite."""

    requests: TrainingRequests
    """What any rank was asked for."""

    num_failed_saves: int
    """Ranks that could not write their part of the checkpoint under way."""

    own_seconds: list[float]
    """RankStatus.own_seconds by rank."""

    terms: dict[str, float]
    """Means over the targets of the objective's terms beside the loss, of those that the model has."""

    expert_counts: list[list[float]]
    """Tokens that were sent to each expert of each layer; empty without experts."""


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
        config: TrainConfig,
        stopwatch: Stopwatch,
    ) -> None:
        self._engine, self._batches, self._rank, self._device = engine, batches, rank, device
        self._micro_batch_size, self._config, self._stopwatch = micro_batch_size, config, stopwatch

    def run_step(
        self,
        batch: Batch,
        status: RankStatus,
        watchdog: Watchdog,
        *,
        timeout_factor: float,
        with_gradient_norms: bool = False,
    ) -> StepResult:
        """Run one step: the gradient is the mean over the batch's targets, whatever each rank's share. Collective.

        Each pass may take `timeout_factor` times the watchdog's timeout.
        """
        with self._stopwatch.part("data"):
            micro_batches = self._read_micro_batches(batch)
        nats = torch.zeros(len(self._batches.streams), dtype=torch.float64, device=self._device)
        terms = torch.zeros(len(TERMS), dtype=torch.float64, device=self._device)
        routed = torch.zeros((), dtype=torch.float64, device=self._device)
        step = StepRouting(rank=self._rank.index, world_size=self._rank.world_size, max_rows=self._micro_batch_size)
        for i, micro_batch in enumerate(micro_batches):
            name = f"a forward and backward pass, {i + 1} of {len(micro_batches)}"
            watchdog.beat(name, timeout_factor=timeout_factor)
            self._engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
            with self._stopwatch.part("forward"):
                found: PackedLoss = self._engine(*self._copy_to_device(micro_batch), step=step)
            with self._stopwatch.part("backward"):
                self._engine.backward(found.objective / batch.num_targets, scale_wrt_gas=False)
            streams = torch.from_numpy(micro_batch.streams).to(self._device)
            nats.index_add_(0, streams, found.row_nats.double())
            terms += found.terms
            routed = routed + found.routed
        with self._stopwatch.part("communication"):
            nats, terms, routed, flags, own_seconds = self._sum_over_ranks(nats, terms, routed, status)
        by_stream: list[float] = nats.tolist()
        loss = sum(by_stream) / batch.num_targets
        watchdog.beat("the optimizer's step", timeout_factor=timeout_factor)
        norm, norms, updated = self._update_weights(loss, with_gradient_norms=with_gradient_norms)
        stop, save, resize, num_failed = flags.tolist()
        return StepResult(
            loss=loss,
            nats=by_stream,
            gradient_norm=norm,
            gradient_norms=norms,
            updated=updated,
            requests=TrainingRequests(stop > 0, save > 0, resize > 0),
            num_failed_saves=int(num_failed),
            own_seconds=own_seconds.tolist(),
            terms=self._mean_terms(terms, routed, num_targets=batch.num_targets),
            expert_counts=routed[0].tolist() if routed.numel() else [],
        )

    def _update_weights(self, loss: float, *, with_gradient_norms: bool) -> tuple[float, dict[str, float], bool]:
        """Return the gradient's norm, its norms by part of the model, and whether the weights were updated."""
        with self._stopwatch.part("optimizer"):
            norms = take_gradient_norms(self._engine) if with_gradient_norms else {}
            limit = self._config.optimizer.max_gradient_norm
            norm, updated = take_optimizer_step(
                self._engine, loss_is_finite=math.isfinite(loss), max_gradient_norm=limit
            )
        return norm, norms, updated

    def _mean_terms(self, terms: torch.Tensor, routed: torch.Tensor, *, num_targets: int) -> dict[str, float]:
        """Return the terms that the model has: the routers' if it has experts, the output layer's if it is weighted."""
        means = dict(zip(TERMS, (terms / num_targets).tolist(), strict=True))
        if routed.numel() and self._config.model.router_balance_by == "batch":
            means["router_balance"] = balance_of_batch(routed, num_targets=num_targets)
        absent = set() if routed.numel() else {"router_balance", "router_z"}
        absent |= set() if self._config.model.output_z else {"output_z"}
        return {name: mean for name, mean in means.items() if name not in absent}

    def _read_micro_batches(self, batch: Batch) -> list[MicroBatch]:
        rank, world_size = self._rank.index, self._rank.world_size
        return list(self._batches.micro_batches(batch, rank=rank, world_size=world_size, size=self._micro_batch_size))

    def _copy_to_device(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, lengths = torch.from_numpy(micro_batch.tokens), torch.from_numpy(micro_batch.lengths)
        return tokens.to(self._device, non_blocking=True), lengths.to(self._device, non_blocking=True)

    def _sum_over_ranks(
        self, nats: torch.Tensor, terms: torch.Tensor, routed: torch.Tensor, status: RankStatus
    ) -> tuple[torch.Tensor, ...]:
        """Sum the first three over ranks, then each request and failed saves; then own seconds by rank. On the CPU."""
        own = torch.zeros(self._rank.world_size, dtype=torch.float64)
        own[self._rank.index] = status.own_seconds
        requests = status.requests
        flags = torch.tensor([requests.stop, requests.save, requests.resize, status.save_failed], dtype=torch.float64)
        parts = [nats, terms, routed, flags.to(self._device), own.to(self._device)]
        vector = torch.cat([part.flatten() for part in parts])
        torch.distributed.all_reduce(vector)
        sums = torch.split(vector.cpu(), [part.numel() for part in parts])
        return tuple(total.view(part.shape) for total, part in zip(sums, parts, strict=True))
