"""How often a training reads each stream of its text: by its settings before it is begun, and by its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from configs.base import Artifact
from configs.training.train import TrainConfig
from data_prep.manifests import TokenizedCorpus
from training.data.batches import Batches
from training.data.tokens_read import count_tokens_read
from training.records import CheckpointRecord, OrderRecord, Position, read_known_record

_OFTEN = 4
"""Streams that are read more often are counted (see epochs_rows)."""

_MAX_SHOWN = 12
"""Streams that have a row of their own at most."""


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


def plan_epochs(
    tokens: Artifact[TokenizedCorpus], config: TrainConfig, *, steps_on_other_data: int = 0
) -> list[StreamEpochs]:
    """Return what a training reads of a corpus by its last step. Raises UserError if it cannot read that corpus.

    The first `steps_on_other_data` of its optimizer steps were those of another training, on other data.
    """
    samples = config.samples_before(config.total_steps) - config.samples_before(steps_on_other_data)
    position = Position(next_place=samples)
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


def epochs_rows(found: Sequence[StreamEpochs]) -> list[tuple[str, str]]:
    """Return rows of a name and a value: how often all text is read, then each stream, that read most often first.

    Of many streams the last row has how many are left out, and which of them is read least. How many are read more than
    four times is said first: up to there repeated text is worth about as much as new (Muennighoff et al., arXiv
    2305.16264).
    """
    whole = sum(one.tokens_read for one in found) / max(1, sum(one.num_tokens for one in found))
    ordered = sorted(found, key=lambda one: (-one.epochs, one.stream))
    shown, left = ordered[:_MAX_SHOWN], ordered[_MAX_SHOWN:]
    often = sum(one.epochs > _OFTEN for one in found)
    told = f"; {often:,} of {len(found):,} streams more than {_OFTEN} times" if often else ""
    rows = [("epochs", f"{whole:,.2f} times all text{told}")] + [(one.stream, _describe(one)) for one in shown]
    if left:
        rows.append((f"{len(left):,} more", f"the least read is {left[-1].stream}: {_describe(left[-1])}"))
    return rows


def _describe(one: StreamEpochs) -> str:
    return f"{one.epochs:,.2f} times: {one.tokens_read:,} tokens read of {one.num_tokens:,}"


def _epochs(order: OrderRecord, tokens_read: dict[str, int]) -> list[StreamEpochs]:
    return [
        StreamEpochs(name, stream.num_tokens - 1, tokens_read[name])
        for stream in order.streams
        for name in [f"{stream.source}/{stream.language}"]
    ]
