"""One optimizer step on one rank: forward and backward passes, and the one collective that all ranks' numbers share."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from cluster.executor import Rank
from training.data.batches import Batch, Batches, MicroBatch
from training.loop.stop_requests import Wishes
from training.loop.watchdog import Watchdog
from training.zero.engine import take_step
from training.zero.step_timing import Stopwatch


@dataclass(frozen=True)
class Outcome:
    """What a step gave, equal on all ranks."""

    loss: float
    """Mean over the step's targets, nats a token."""

    nats: list[float]
    """Sum of the token losses by stream."""

    gradient_norm: float
    updated: bool
    wishes: Wishes
    """What any rank was asked for."""

    num_failed: int
    """Ranks that could not do their part of the checkpoint under way."""

    own_seconds: list[float]
    """By rank: what the step before took, without waiting for others."""


@dataclass(frozen=True)
class Signals:
    """What a rank has to tell the others, in a step."""

    wishes: Wishes
    failed: bool
    """Its part of the checkpoint under way."""

    own_seconds: float


class Stepper:
    """Takes steps of one engine."""

    def __init__(
        self, engine: Any, batches: Batches, rank: Rank, device: torch.device, *, rows: int, watch: Stopwatch
    ) -> None:
        """`rows`: sequences of a micro-batch."""
        self._engine, self._batches, self._rank, self._device = engine, batches, rank, device
        self._rows, self._watch = rows, watch

    def take(self, batch: Batch, signals: Signals, dog: Watchdog, *, patience: float) -> Outcome:
        """One step: the gradient is the mean over the batch's targets, whatever each rank's share. Collective."""
        with self._watch.part("data"):
            micro_batches = self._read(batch)
        nats = torch.zeros(len(self._batches.streams), dtype=torch.float64, device=self._device)
        # DeepSpeed averages over ranks, so each rank's share is scaled by their number
        scale = self._rank.world_size / batch.num_targets
        for i, micro_batch in enumerate(micro_batches):
            dog.beat(f"a forward and backward pass, {i + 1} of {len(micro_batches)}", patience=patience)
            self._engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
            with self._watch.part("forward"):
                objective, row_nats = self._engine(*self._on_device(micro_batch))
            with self._watch.part("backward"):
                self._engine.backward(objective * scale, scale_wrt_gas=False)
            streams = torch.from_numpy(micro_batch.streams).to(self._device)
            nats.index_add_(0, streams, row_nats.double())
        with self._watch.part("communication"):
            numbers = self._share(nats, signals)
        by_stream = numbers[: len(self._batches.streams)]
        loss = sum(by_stream) / batch.num_targets
        dog.beat("the optimizer's step", patience=patience)
        with self._watch.part("optimizer"):
            norm, updated = take_step(self._engine, loss_is_finite=math.isfinite(loss))
        stop, save, resize, failed, *own_seconds = numbers[len(by_stream) :]
        wishes = Wishes(stop > 0, save > 0, resize > 0)
        return Outcome(loss, by_stream, norm, updated, wishes, int(failed), own_seconds)

    def _read(self, batch: Batch) -> list[MicroBatch]:
        world_size = self._rank.world_size
        return list(self._batches.micro_batches(batch, rank=self._rank.index, world_size=world_size, size=self._rows))

    def _on_device(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, lengths = torch.from_numpy(micro_batch.tokens), torch.from_numpy(micro_batch.lengths)
        return tokens.to(self._device, non_blocking=True), lengths.to(self._device, non_blocking=True)

    def _share(self, nats: torch.Tensor, signals: Signals) -> list[float]:
        """Sums over ranks: the nats by stream, each wish, failed; then each rank's own seconds."""
        own = torch.zeros(self._rank.world_size, dtype=torch.float64)
        own[self._rank.index] = signals.own_seconds
        wishes = signals.wishes
        flags = torch.tensor([wishes.stop, wishes.save, wishes.resize, signals.failed], dtype=torch.float64)
        vector = torch.cat([nats, flags.to(self._device), own.to(self._device)])
        torch.distributed.all_reduce(vector)
        numbers: list[float] = vector.tolist()
        return numbers


class Stragglers:
    """Names ranks that are slower than the others, by the time they take without waiting."""

    WINDOW_STEPS = 20
    RATIO = 1.5

    def __init__(self, hosts: list[str]) -> None:
        self._hosts = hosts
        self._rows: list[list[float]] = []
        self._named: set[int] = set()

    def look(self, own_seconds: list[float]) -> list[str]:
        """A sentence about each rank that has become a straggler in the window that this step ends, if it ends one."""
        self._rows.append(own_seconds)
        if len(self._rows) < self.WINDOW_STEPS or len(self._hosts) < 2:
            return []
        typical = [sorted(column)[len(column) // 2] for column in zip(*self._rows, strict=True)]
        self._rows.clear()
        usual = sorted(typical)[(len(typical) - 1) // 2]
        slow = {rank for rank, seconds in enumerate(typical) if seconds > self.RATIO * usual and usual > 0}
        fresh, self._named = slow - self._named, slow
        return [
            f"rank {rank} on {self._hosts[rank]} is a straggler, which all wait for: over {self.WINDOW_STEPS} steps it "
            f"took {typical[rank] / usual:.1f} times as long as the others"
            for rank in sorted(fresh)
        ]
