"""How often a training reads each stream of its text: by its settings before it is begun, and by its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from configs.base import Artifact
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus
from training.data.batches import Batches
from training.data.tokens_read import count_tokens_read
from training.records import CheckpointRecord, OrderRecord, Position, read_known_record

_MAX_NAMED = 3
"""Streams that a description names at most, of those that are read most often."""


@dataclass(frozen=True)
class StreamEpochs:
    """How many tokens of one source in one language are read, and of how many."""

    stream: str
    """`source/language`."""

    num_tokens: int
    """Tokens that the loss can be taken over: all but the first."""

    tokens_read: int

    @property
    def epochs(self) -> float:
        """How many times the stream is read."""
        return self.tokens_read / self.num_tokens


def plan_epochs(tokens: Artifact[TokenizedCorpus], config: TrainConfig) -> list[StreamEpochs]:
    """Return what a training reads from its first step to its last. Raises UserError if it cannot read that corpus."""
    position = Position(next_place=config.samples_before(config.total_steps))
    order = Batches(tokens, config).order_record()
    return _epochs(order, count_tokens_read(order, position))


def read_epochs(checkpoint: Path) -> list[StreamEpochs]:
    """Return what a training had read before a checkpoint, by its directory; nothing if its record is gone."""
    try:
        record = read_known_record(checkpoint)
    except (OSError, ValidationError):  # deleted meanwhile, or damaged, which the next start says
        return []
    return epochs_read(record)


def epochs_read(record: CheckpointRecord) -> list[StreamEpochs]:
    """Return what a training has read before a checkpoint."""
    return _epochs(record.order, record.tokens_read)


def describe_epochs(found: Sequence[StreamEpochs]) -> str:
    """Return how often all text is read, then which streams most and least: `1.2 times; most web/sw 4.0; ...`."""
    whole = sum(one.tokens_read for one in found) / max(1, sum(one.num_tokens for one in found))
    if len(found) == 1:
        return f"{whole:.2f} times {found[0].stream}"
    ordered = sorted(found, key=lambda one: (-one.epochs, one.stream))
    most = ", ".join(f"{one.stream} {one.epochs:,.2f}" for one in ordered[:_MAX_NAMED])
    return f"{whole:.2f} times all text; most often {most}; least {ordered[-1].stream} {ordered[-1].epochs:,.2f}"


def _epochs(order: OrderRecord, tokens_read: dict[str, int]) -> list[StreamEpochs]:
    return [
        StreamEpochs(name, stream.num_tokens - 1, tokens_read[name])
        for stream in order.streams
        for name in [f"{stream.source}/{stream.language}"]
    ]
