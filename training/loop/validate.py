"""Validation on one rank: forward passes over the held-out samples, and the collective that sums up their losses."""

import math
from collections.abc import Callable
from typing import Any

import torch

from cluster.executor import Rank
from configs.training.train import TrainConfig
from training.data.passes import Plans, even_plan
from training.data.validation import ValidationSet, choose_validation_set
from training.job import Job
from training.log.metrics_file import Validation
from training.loop.watchdog import Watchdog
from training.manifests import counted
from training.network.packed_rows import PackedRows, pack_rows


def make_validator(rank: Rank, job: Job, device: torch.device, *, notify: Callable[[str], None]) -> "Validator | None":
    """Return what validates a training; None if it asks for none or no text is held out. Rank 0 says which it is."""
    chosen = choose_validation_set(job.tokens, job.config)
    if rank.index == 0 and job.config.validation is not None:
        notify(_describe(chosen, job.config))
    if chosen is None:
        return None
    return Validator(
        chosen,
        rank,
        device,
        micro_batch_size=job.placement.micro_batch_size,
        sequence_length=job.config.sequence_length,
        equal_rows=job.placement.compile,
        boundary_id=job.tokenizer.manifest.boundary_id,
    )


def _describe(chosen: ValidationSet | None, config: TrainConfig) -> str:
    if chosen is None:
        return "no text is held out, so there is no validation; raise held_out.share, or set validation: null"
    assert config.validation is not None
    beyond = f", more than validation.max_share, {config.validation.max_share:.2%}, since each stream needs some"
    sample = f"{counted(len(chosen.batch.stream), 'sequence')} of {counted(len(chosen.streams), 'stream')}"
    if chosen.sequence_length < config.sequence_length:
        sample += f" (of {chosen.sequence_length} tokens: validation.max_share allows no more)"
    return (
        f"validation every {config.validate_every_steps:,} steps, on {sample}: {chosen.share:.2%} of the time by "
        f"reckoning{beyond if chosen.share > config.validation.max_share * 1.001 else ''}"
    )


class Validator:
    """Takes the loss of a model on a validation set."""

    def __init__(
        self,
        chosen: ValidationSet,
        rank: Rank,
        device: torch.device,
        *,
        micro_batch_size: int,
        sequence_length: int,
        equal_rows: bool,
        boundary_id: int,
    ) -> None:
        """A pass has as many tokens as one of a step at most: `micro_batch_size` sequences of `sequence_length`."""
        self._chosen, self._rank, self._device = chosen, rank, device
        self._is_full_length = sequence_length == chosen.sequence_length
        self._rows_of_a_pass = micro_batch_size * (sequence_length // chosen.sequence_length)
        self._equal_rows, self._boundary_id = equal_rows, boundary_id

    def run(self, engine: Any, plans: Plans, watchdog: Watchdog, *, timeout_factor: float) -> Validation:
        """Return the losses of the engine's weights as they are, which stay as they are. Collective.

        The same on all ranks. Each pass may take `timeout_factor` times the watchdog's timeout.
        """
        nats = torch.zeros(len(self._chosen.streams), dtype=torch.float64, device=self._device)
        batch, world_size = self._chosen.batch, self._rank.world_size
        num_samples = len(batch.stream)
        plan = (
            plans(num_samples)
            if self._is_full_length
            else even_plan(num_samples, world_size, size=self._rows_of_a_pass)
        )
        micro_batches = self._chosen.samples.micro_batches(
            batch, plan, rank=self._rank.index, equal_rows=self._equal_rows
        )
        engine.eval()
        try:
            for number, micro in enumerate(micro_batches):
                watchdog.beat(f"a validation pass, the {number + 1}.", timeout_factor=timeout_factor)
                rows = pack_rows(micro.tokens, micro.lengths, boundary_id=self._boundary_id)
                with torch.no_grad():
                    found = engine(PackedRows(*(part.to(self._device) for part in rows)))
                streams = torch.from_numpy(micro.streams).to(self._device)
                nats.index_add_(0, streams, found.row_nats.double())
        finally:
            engine.train()
        torch.distributed.all_reduce(nats)
        return self._sum_up(nats.tolist())

    def _sum_up(self, nats: list[float]) -> Validation:
        chosen = self._chosen
        by_stream = dict(zip(chosen.streams, nats, strict=True))
        targets = chosen.batch.targets_by_stream
        num_bytes = {stream: number * chosen.bytes_per_token[stream] for stream, number in targets.items()}
        return Validation(
            loss=sum(nats) / chosen.batch.num_targets,
            bits_per_byte=sum(nats) / math.log(2) / sum(num_bytes.values()),
            nats=by_stream,
            targets=targets,
            bits_per_byte_by_stream={s: by_stream[s] / math.log(2) / size for s, size in num_bytes.items()},
        )
