"""One optimizer step on one rank: forward and backward passes, and the one collective that shares all numbers."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from cluster.executor import Rank
from configs.base import InfrastructureError
from configs.training.train import TrainConfig
from training.accelerator import is_accelerator
from training.allocation.pass_times import run_pass
from training.data.passes import PassPlan
from training.data.prefetch import StepInput
from training.loop.stop_requests import TrainingRequests
from training.loop.watchdog import Watchdog
from training.network.packed_lm import TERMS
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

    pass_seconds: float
    """What of it forward and backward passes took; 0 before the first step."""

    has_new_speeds: bool = False
    """Whether it has found that sequences are to be shared in another way (training/allocation/balance.py)."""


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

    pass_seconds: list[float]
    """RankStatus.pass_seconds by rank."""

    has_new_speeds: bool
    """Whether any rank has new speeds."""

    terms: dict[str, float]
    """Means over the targets of the objective's terms beside the loss, of those that the model has."""

    expert_counts: list[list[float]]
    """Tokens that were sent to each expert of each layer; empty without experts."""


class Stepper:
    """Runs optimizer steps of one engine; each sequence takes `emulated` seconds more."""

    def __init__(
        self,
        engine: Any,
        rank: Rank,
        device: torch.device,
        *,
        num_streams: int,
        config: TrainConfig,
        stopwatch: Stopwatch,
        emulated: float = 0.0,
    ) -> None:
        self._engine, self._rank, self._device, self._num_streams = engine, rank, device, num_streams
        self._config, self._stopwatch, self._emulated = config, stopwatch, emulated
        self._checked: PassPlan | None = None
        """The plan that all ranks were found to have."""

    def run_step(
        self,
        step_input: StepInput,
        status: RankStatus,
        watchdog: Watchdog,
        *,
        timeout_factor: float,
        with_gradient_norms: bool = False,
    ) -> StepResult:
        """Run one step: the gradient is the mean over the batch's targets, whatever each rank's share. Collective.

        Each pass may take `timeout_factor` times the watchdog's timeout.
        """
        batch = step_input.batch
        self._check_plan(step_input.plan)
        nats, terms, routed = self._run_passes(step_input, watchdog, timeout_factor=timeout_factor)
        with self._stopwatch.part("communication"):
            nats, terms, routed, flags, seconds = self._sum_over_ranks(nats, terms, routed, status)
        by_stream: list[float] = nats.tolist()
        loss = sum(by_stream) / batch.num_targets
        watchdog.beat("the optimizer's step", timeout_factor=timeout_factor)
        norm, norms, updated = self._update_weights(loss, with_gradient_norms=with_gradient_norms)
        stop, save, resize, num_failed, num_new_speeds = flags.tolist()
        own_seconds, pass_seconds = seconds.tolist()
        return StepResult(
            loss=loss,
            nats=by_stream,
            gradient_norm=norm,
            gradient_norms=norms,
            updated=updated,
            requests=TrainingRequests(stop > 0, save > 0, resize > 0),
            num_failed_saves=int(num_failed),
            own_seconds=own_seconds,
            pass_seconds=pass_seconds,
            has_new_speeds=num_new_speeds > 0,
            terms=self._mean_terms(terms, routed, num_targets=batch.num_targets),
            expert_counts=routed[0].tolist() if routed.numel() else [],
        )

    def _run_passes(
        self, step_input: StepInput, watchdog: Watchdog, *, timeout_factor: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run this rank's passes; return the sums of the losses by stream, of the terms, and what experts were sent."""
        plan, number = step_input.plan, len(step_input.micro_batches)
        nats = torch.zeros(self._num_streams, dtype=torch.float64, device=self._device)
        terms = torch.zeros(len(TERMS), dtype=torch.float64, device=self._device)
        routed = torch.zeros((), dtype=torch.float64, device=self._device)
        step = self._routing(plan)
        for i, (rows, streams) in enumerate(step_input.micro_batches):
            watchdog.beat(f"a forward and backward pass, {i + 1} of {number}", timeout_factor=timeout_factor)
            self._engine.set_gradient_accumulation_boundary(i == number - 1)
            found = run_pass(
                self._engine,
                rows,
                self._stopwatch,
                emulated=float(plan.sizes[self._rank.index, i]) * self._emulated,
                divisor=step_input.batch.num_targets,
                step=step,
            )
            nats.index_add_(0, streams, found.row_nats.double())
            terms += found.terms
            routed = routed + found.routed
        return nats, terms, routed

    def _check_plan(self, plan: PassPlan) -> None:
        """Raise InfrastructureError if the ranks do not share the step in the same way: they would hang in it.

        Collective where the plan is not that of the step before.
        """
        if plan is self._checked:
            return
        digests = torch.tensor([plan.digest, -plan.digest], dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(digests, op=torch.distributed.ReduceOp.MAX)
        most, least = digests.tolist()
        if most != -least:
            raise InfrastructureError(
                "the ranks reckon differently who computes which sequences of a step, so that they would wait for each "
                "other for ever; set balance: even for the pool, and tell us which machines these are"
            )
        self._checked = plan

    def _routing(self, plan: PassPlan) -> StepRouting:
        orders = [plan.order(number) for number in range(plan.sizes.shape[1])] if plan.equal_passes else []
        alone = self._rank.world_size == 1
        return StepRouting(rank=self._rank.index, max_rows=plan.max_rows, orders=() if alone else orders)

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

    def _sum_over_ranks(
        self, nats: torch.Tensor, terms: torch.Tensor, routed: torch.Tensor, status: RankStatus
    ) -> tuple[torch.Tensor, ...]:
        """Sum the first three over ranks, then each statement of the status.

        Last (2, ranks) come the own seconds of each rank, and those of its passes. All are on the CPU.
        """
        requests, num_ranks = status.requests, self._rank.world_size
        own = torch.zeros(2, num_ranks, dtype=torch.float64)
        own[:, self._rank.index] = torch.tensor([status.own_seconds, status.pass_seconds], dtype=torch.float64)
        said = (requests.stop, requests.save, requests.resize, status.save_failed, status.has_new_speeds)
        told = torch.cat([torch.tensor(said, dtype=torch.float64), own.flatten()])
        told = (told.pin_memory() if is_accelerator(self._device) else told).to(self._device, non_blocking=True)
        parts = [nats, terms, routed, told[: len(said)], told[len(said) :].view(2, num_ranks)]
        vector = torch.cat([part.flatten() for part in parts])
        torch.distributed.all_reduce(vector)
        sums = torch.split(vector.cpu(), [part.numel() for part in parts])
        return tuple(total.view(part.shape) for total, part in zip(sums, parts, strict=True))
