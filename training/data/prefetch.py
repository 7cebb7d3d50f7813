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
from training.data.position import take_places
from training.network.packed_rows import PackedRows, pack_rows
from training.records import Position


@dataclass(frozen=True)
class StepInput:
    """What one rank reads in an optimizer step, on its device."""

    batch: Batch
    """The samples of all ranks."""

    first_place: int
    """The place of the step's first sample in the order."""

    position: Position
    """The position after the step."""

    micro_batches: list[tuple[PackedRows, torch.Tensor]]
    """The rows of each forward and backward pass, and the stream of each of them."""


class Prefetcher:
    """Reads the steps of one rank, one step ahead."""

    def __init__(
        self,
        batches: Batches,
        *,
        rank: int,
        world_size: int,
        batch_size_at: Callable[[int], int],
        micro_batch_size: int,
        equal_rows: bool,
        boundary_id: int,
        device: torch.device,
    ) -> None:
        """`batch_size_at` gives the samples of the step after so many.

        With `equal_rows` all micro-batches have equally many rows (Batches.micro_batches).
        """
        self._batches, self._rank, self._world_size = batches, rank, world_size
        self._batch_size_at, self._micro_batch_size = batch_size_at, micro_batch_size
        self._equal_rows, self._boundary_id, self._device = equal_rows, boundary_id, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._next: tuple[tuple[int, Position], Future[_HostInput]] | None = None

    def take(self, position: Position, *, step: int, is_last: bool) -> StepInput:
        """Return the input of the step after `step` others, at `position`, and begin to read the one after it.

        That is not done if this is the last. Raises what reading raised.
        """
        if self._next is None or self._next[0] != (step, position):  # the first step, or the first after a roll-back
            self._next = (step, position), self._thread.submit(self._read, position, self._batch_size_at(step))
        found = self._next[1].result()
        self._next = None
        if not is_last:
            after = step + 1, found.position
            self._next = after, self._thread.submit(self._read, found.position, self._batch_size_at(step + 1))
        flat = found.flat.to(self._device, non_blocking=True)
        parts = iter(torch.split(flat, [part.numel() for rows in found.micro_batches for part in rows]))
        moved = [[next(parts).view(part.shape) for part in rows] for rows in found.micro_batches]
        micro_batches = [(PackedRows(*rows), streams) for *rows, streams in moved]
        return StepInput(found.batch, found.first_place, found.position, micro_batches)

    def close(self) -> None:
        """End the thread once it has read what it is reading."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, position: Position, num_samples: int) -> "_HostInput":
        places, after = take_places(position, num_samples)
        batch = self._batches.batch(places)
        micro_batches: list[tuple[torch.Tensor, ...]] = [
            (*pack_rows(micro.tokens, micro.lengths, boundary_id=self._boundary_id), torch.from_numpy(micro.streams))
            for micro in self._batches.micro_batches(
                batch,
                rank=self._rank,
                world_size=self._world_size,
                size=self._micro_batch_size,
                equal_rows=self._equal_rows,
            )
        ]
        parts = [part.numpy().reshape(-1) for rows in micro_batches for part in rows]
        flat = torch.empty(sum(map(len, parts)), dtype=torch.int64, pin_memory=is_accelerator(self._device))
        np.concatenate(parts, out=flat.numpy())
        return _HostInput(batch, places[0].start, after, micro_batches, flat)


@dataclass(frozen=True)
class _HostInput:
    """StepInput in host memory."""

    batch: Batch
    first_place: int
    position: Position
    micro_batches: list[tuple[torch.Tensor, ...]]
    """The tensors of PackedRows, and the streams, of each micro-batch."""

    flat: torch.Tensor
    """All of these end to end, in pinned memory for a GPU."""
