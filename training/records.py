"""What training says of itself on disk, in types that import nothing heavy."""

from typing import Literal, Self

import xxhash
from pydantic import BaseModel, ConfigDict, model_validator

CHECKPOINT_FILE = "checkpoint.json"
"""A CheckpointRecord, in the directory of the checkpoint."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class StreamRecord(_Frozen):
    """A stream of the order: one source in one language."""

    source: str
    language: str
    num_tokens: int
    """Of the whole stream. It has num_tokens - 1 targets, in ceil((num_tokens - 1) / sequence_length) samples."""

    num_bytes: int
    """UTF-8 bytes of its text."""

    weight: float
    """Its share of the samples, as it went into the order."""


class OrderRecord(_Frozen):
    """All that the order of samples is a function of (data_prep/tokens/sample_order.py)."""

    seed: int
    sequence_length: int
    streams: tuple[StreamRecord, ...]
    tokens: str
    """Name, in the store, of the artifact that holds the tokens."""


class Position(_Frozen):
    """How far the order has been read."""

    next_place: int = 0
    """The next sample to read, by its place in the order."""

    skipped: tuple[tuple[int, int], ...] = ()
    """Places, first and past the last, that were left out by roll-backs. In order, and all below next_place or yet to
    come; they do not overlap."""


class Rollback(_Frozen):
    """A return to an earlier checkpoint, and the data that was left out for it."""

    at_step: int
    """The step after which it was decided."""

    to_step: int
    """The step of the checkpoint that was gone back to."""

    skipped: tuple[int, int]
    """Places of the order that are left out from then on: the first, and past the last."""

    reason: str
    time: float
    """Unix time."""


class CheckpointRecord(_Frozen):
    """What a checkpoint says of itself. Its presence makes the directory a checkpoint."""

    format: Literal[2] = 2
    step: int
    """Optimizer steps, those without an update included."""

    num_updates: int
    """Optimizer steps that changed the weights: Adam's bias correction counts these."""

    num_tokens: int
    """Tokens that the loss was taken over."""

    tokens_read: dict[str, int]
    """The same by `source/language`, from the order alone."""

    position: Position
    order: OrderRecord
    global_batch_size: int
    num_rollbacks: int
    """Roll-backs before this checkpoint."""

    loss: float
    """Mean over the steps since the checkpoint before, nats a token."""

    world_size: int
    zero_stage: int
    shapes: dict[str, tuple[int, ...]]
    """Of every parameter, by name."""

    files: dict[str, str]
    """Checksum (xxh3-128, hex) of every other file but the weights, whose checksums stand in the indices."""

    checksum: str = ""
    """Of all that stands above."""

    @model_validator(mode="after")
    def _is_as_it_was_written(self) -> Self:
        if self.checksum and self.checksum != self._sum():
            raise ValueError("the record has changed since it was written")
        return self

    def sealed(self) -> Self:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    def _sum(self) -> str:
        return xxhash.xxh3_128_hexdigest(self.model_dump_json(exclude={"checksum"}).encode())
