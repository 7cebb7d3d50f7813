"""What a training is validated on: a fixed sample of held-out text, of every source in every language."""

from dataclasses import dataclass

import numpy as np

from configs.base import Artifact
from configs.training.train import TrainConfig
from data_prep.manifests import TokenizedCorpus
from data_prep.tokens.mixture import fill
from training.data.batches import Batch, Samples

MIN_LENGTH = 16
"""Tokens of the shortest sequences that are validated on."""

FORWARD_SHARE = 0.37
"""Work of a forward pass over a token as a share of a step's, whose backward pass takes twice as much: a third, and a
tenth of that for what a pass over few short sequences takes more (benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class ValidationSet:
    """The samples of one validation on all ranks, the same each time."""

    samples: Samples
    batch: Batch

    bytes_per_token: dict[str, float]
    """Mean UTF-8 bytes of a token of held-out text, by `source/language`."""

    sequence_length: int
    """Tokens of a sequence: the training's, or fewer if one of that length for each stream would take too long."""

    share: float
    """Predicted share of the time that validating takes, of the work of the steps between."""

    @property
    def streams(self) -> list[str]:
        """The streams' names, by their number in the batch."""
        return list(self.bytes_per_token)


def choose_validation_set(corpus: Artifact[TokenizedCorpus], config: TrainConfig) -> ValidationSet | None:
    """Choose what a training is validated on; None if the recipe asks for nothing, or no text is held out.

    Each stream gets equally many sequences, as far as its held-out text lasts, from its beginning, where the smallest
    digests are: so a larger sample only adds to a smaller one. One sequence of each is taken in any case, a shorter one
    if need be.
    """
    shards = corpus.manifest.validation
    num_streams = len({(shard.source, segment.language) for shard in shards for segment in shard.segments})
    if config.validation is None or config.validate_every_steps is None or not num_streams:
        return None
    between = config.samples_before(config.validate_every_steps) * config.sequence_length  # the fewest, with a ramp
    budget = config.validation.max_share * between / FORWARD_SHARE  # tokens
    length = max(MIN_LENGTH, min(config.sequence_length, int(budget / num_streams) // 4 * 4))
    held_out = corpus.manifest.model_copy(update={"shards": shards})
    samples = Samples(Artifact(corpus.dir, held_out), sequence_length=length)
    if not samples.streams:  # none has two tokens
        return None
    sizes = [stream.num_samples for stream in samples.streams]
    counts = [max(1, int(count)) for count in fill(budget / length, [1.0] * len(sizes), sizes)]
    stream = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    index = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return ValidationSet(
        samples,
        samples.collect(stream, index),
        {f"{s.source}/{s.language}": s.num_bytes / s.num_tokens for s in samples.records()},
        sequence_length=length,
        share=FORWARD_SHARE * sum(counts) * length / between,
    )
