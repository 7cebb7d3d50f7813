"""Prefetch: a thread reads the rows of the next step while this one is computed.

All that a step needs goes to the device in one copy, from pinned memory, which the host does not wait for.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from training.accelerator import is_accelerator
from training.data.batches import Batch, Batches
from training.data.passes import PassPlan, Plans
from training.data.position import take_places
from training.network.packed_rows import PackedRows, pack_rows
from training.records import Position

_Wanted = tuple[int, Position, Plans]


@dataclass(frozen=True)
class StepInput:
    """What one rank reads in an optimizer step, on its device."""

    batch: Batch
    """The samples of all ranks."""

    first_place: int
    """The place of the step's first sample in the order."""

    position: Position
    """The position after the step."""

    plan: PassPlan
    """Which of them each rank computes."""

    micro_batches: list[tuple[PackedRows, torch.Tensor]]
    """The rows of each forward and backward pass, and the stream of each of them."""


class Prefetcher:
    """Reads the steps of one rank, one step ahead."""

    def __init__(
        self,
        batches: Batches,
        *,
        rank: int,
        batch_size_at: Callable[[int], int],
        equal_rows: bool,
        boundary_id: int,
        device: torch.device,
    ) -> None:
        """`batch_size_at` gives the samples of the step after so many.

        With `equal_rows` all micro-batches of a step have equally many rows (Batches.micro_batches).
        """
        self._batches, self._rank, self._batch_size_at = batches, rank, batch_size_at
        self._equal_rows, self._boundary_id, self._device = equal_rows, boundary_id, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._next: tuple[_Wanted, Future[_HostInput]] | None = None

    def take(self, position: Position, plans: Plans, *, step: int, is_last: bool) -> StepInput:
        """Return the input of the step after `step` others, at `position`, and begin to read the one after it.

        That is not done if this is the last. `plans` gives the plan of so many samples. Raises what reading raised.
        """
        wanted = step, position, plans
        if self._next is None or self._next[0] != wanted:  # the first step, the first after a roll-back or re-balancing
            self._next = wanted, self._thread.submit(self._read, position, plans, self._batch_size_at(step))
        found = self._next[1].result()
        self._next = None
        if not is_last:
            after = step + 1, found.position, plans
            self._next = after, self._thread.submit(self._read, found.position, plans, self._batch_size_at(step + 1))
        flat = found.flat.to(self._device, non_blocking=True)
        parts = iter(torch.split(flat, [part.numel() for rows in found.micro_batches for part in rows]))
        moved = [[next(parts).view(part.shape) for part in rows] for rows in found.micro_batches]
        micro_batches = [(PackedRows(*rows), streams) for *rows, streams in moved]
        return StepInput(found.batch, found.first_place, found.position, found.plan, micro_batches)

    def close(self) -> None:
        """End the thread once it has read what it is reading."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, position: Position, plans: Plans, num_samples: int) -> "_HostInput":
        places, after = take_places(position, num_samples)
        batch, plan = self._batches.batch(places), plans(num_samples)
        micro_batches: list[tuple[torch.Tensor, ...]] = [
            (*pack_rows(micro.tokens, micro.lengths, boundary_id=self._boundary_id), torch.from_numpy(micro.streams))
            for micro in self._batches.micro_batches(batch, plan, rank=self._rank, equal_rows=self._equal_rows)
        ]
        parts = [part.numpy().reshape(-1) for rows in micro_batches for part in rows]
        flat = torch.empty(sum(map(len, parts)), dtype=torch.int64, pin_memory=is_accelerator(self._device))
        np.concatenate(parts, out=flat.numpy())
        return _HostInput(batch, places[0].start, after, plan, micro_batches, flat)


@dataclass(frozen=True)
class _HostInput:
    """StepInput in host memory."""

    batch: Batch
    first_place: int
    position: Position
    plan: PassPlan
    micro_batches: list[tuple[torch.Tensor, ...]]
    """The tensors of PackedRows, and the streams, of each micro-batch."""

    flat: torch.Tensor
    """All of these end to end, in pinned memory for a GPU."""
