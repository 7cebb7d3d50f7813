"""Batches of training samples: which samples are at given places of the order, and which rank reads which of them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from configs.base import Artifact, UserError
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus
from data_prep.tokens.sample_order import Ints, Order, Stream, stream_weights
from training.data.token_stream import open_token_streams
from training.records import OrderRecord, StreamRecord

_MAX_NAMED = 6
"""Most streams that an error names."""


@dataclass(frozen=True)
class Batch:
    """The samples of one optimizer step on all ranks; it is known without reading any token."""

    stream: Ints
    """(samples,) index of each sample's stream."""

    index: Ints
    """(samples,) each sample's number in its stream."""

    num_targets: int
    """Tokens that bear loss."""

    targets_by_stream: dict[str, int]
    """Tokens that bear loss by `source/language`, of the streams that are read."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of packed tokens; row i bears loss on its first `lengths[i]` targets."""

    tokens: Ints
    """(rows, sequence_length + 1): inputs are all but the last column, targets all but the first."""

    lengths: Ints
    """(rows,) number of each row's targets that bear loss."""

    streams: Ints
    """(rows,) index of each row's stream."""


class Batches:
    """The training data of one config on one corpus, addressed by places in the order of samples.

    A stream of n tokens has n - 1 targets, cut every `sequence_length`; the last sample is shorter, never dropped,
    so in an epoch each token is a target exactly once.
    """

    def __init__(self, corpus: Artifact[TokenizedCorpus], config: TrainConfig) -> None:
        self._config = config
        self._name = corpus.dir.resolve().name
        found = {key: tokens for key, tokens in open_token_streams(corpus).items() if tokens.num_tokens > 1}
        sizes = [(*key, -(-(tokens.num_tokens - 1) // config.sequence_length)) for key, tokens in found.items()]
        _check(sizes, config)
        weights = stream_weights(sizes, config.mixture)
        self.streams = [Stream(*size, weight) for size, weight in zip(sizes, weights, strict=True)]
        self._tokens = list(found.values())
        self._num_targets = np.array([tokens.num_tokens - 1 for tokens in self._tokens], dtype=np.int64)
        self._order = Order(self.streams, seed=config.seed)

    def order_record(self) -> OrderRecord:
        """Return all that the order is a function of."""
        streams = [
            StreamRecord(
                source=stream.source,
                language=stream.language,
                num_tokens=tokens.num_tokens,
                num_bytes=tokens.num_bytes,
                weight=stream.weight,
            )
            for stream, tokens in zip(self.streams, self._tokens, strict=True)
        ]
        config = self._config
        return OrderRecord(
            seed=config.seed, sequence_length=config.sequence_length, streams=tuple(streams), tokens=self._name
        )

    def batch(self, places: tuple[range, ...]) -> Batch:
        """Return the batch of the samples at the given places."""
        pieces = [self._order.samples(piece.start, piece.stop) for piece in places]
        stream = np.concatenate([piece.stream for piece in pieces])
        index = np.concatenate([piece.index for piece in pieces])
        length = self._config.sequence_length
        targets = np.minimum(length, self._num_targets[stream] - index * length)
        by_stream = np.zeros(len(self.streams), dtype=np.int64)
        np.add.at(by_stream, stream, targets)
        named = {self.streams[i].key: int(by_stream[i]) for i in np.flatnonzero(by_stream)}
        return Batch(stream, index, int(targets.sum()), named)

    def micro_batches(
        self, batch: Batch, *, rank: int, world_size: int, size: int, equal_rows: bool = False
    ) -> Iterator[MicroBatch]:
        """Yield the micro-batches, of at most `size` rows, that `rank` reads of a batch: equally many on every rank.

        Sample i of the batch goes to rank i mod world_size, and all ranks take equally many a micro-batch, but the last
        ones: so no sample comes in a later micro-batch than one after it. A rank that has no samples left reads the
        batch's first one, with no loss on it. With `equal_rows` such rows fill up the last micro-batches, so that all
        have equally many, and compiled layers are compiled for one number.
        """
        num_samples = len(batch.stream)
        samples_of_rank = np.arange(rank, num_samples, world_size)
        num_batches = math.ceil(math.ceil(num_samples / world_size) / size)
        per_batch = math.ceil(math.ceil(num_samples / world_size) / num_batches)
        for number in range(num_batches):
            rows = samples_of_rank[number * per_batch : (number + 1) * per_batch]
            num_empty = per_batch - len(rows) if equal_rows else int(not len(rows))
            chosen = np.append(rows, np.zeros(num_empty, dtype=np.int64))
            yield self._read(batch.stream[chosen], batch.index[chosen], num_targetless=num_empty)

    def _read(self, streams: Ints, indices: Ints, *, num_targetless: int) -> MicroBatch:
        """Read the samples; the last ones bear no loss."""
        length = self._config.sequence_length
        tokens = np.zeros((len(streams), length + 1), dtype=np.int64)
        lengths = np.zeros(len(streams), dtype=np.int64)
        for row, (stream, index) in enumerate(zip(streams.tolist(), indices.tolist(), strict=True)):
            ids = self._tokens[stream].read(index * length, length + 1)
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids) - 1 if row < len(streams) - num_targetless else 0
        return MicroBatch(tokens, lengths, streams)


def check_same_order(record: OrderRecord, now: OrderRecord) -> None:
    """Raise UserError if a training that has read the order `record` cannot go on in the order `now`."""
    if differences := _differences(record, now):
        raise UserError(
            f"init_from.mode `continue` cannot go on in another order of the data, which would repeat or skip samples; "
            f"it differs in {', '.join(differences)}; keep these as they were, or use `mode: weights` for a new "
            "training on other data"
        )


def _differences(record: OrderRecord, now: OrderRecord) -> list[str]:
    found = [
        f"{name} ({getattr(record, name)} before, {getattr(now, name)} now)"
        for name in ("seed", "sequence_length")
        if getattr(record, name) != getattr(now, name)
    ]
    if changed := _changed_streams(record, now, lambda stream: (stream.num_tokens, stream.num_bytes)):
        found.append(f"the text of {changed}")
    if not found and (changed := _changed_streams(record, now, lambda stream: stream.weight)):
        found.append(f"the weight of {changed}")  # not after a change of length or text, which changes weights, too
    return found


def _changed_streams(record: OrderRecord, now: OrderRecord, value: Callable[[StreamRecord], object]) -> str:
    before, after = ({f"{s.source}/{s.language}": value(s) for s in order.streams} for order in (record, now))
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    more = [f"{len(names) - _MAX_NAMED} more streams"] if len(names) > _MAX_NAMED else []
    return " and ".join([*([", ".join(names[:_MAX_NAMED])] if names else []), *more])


def _check(sizes: list[tuple[str, str, int]], config: TrainConfig) -> None:
    available = sum(size for _, _, size in sizes)
    if available < config.global_batch_size:
        raise UserError(
            f"the corpus has {available} sequences of {config.sequence_length} tokens, fewer than one batch of "
            f"{config.global_batch_size}; lower global_batch_size or sequence_length, or add text"
        )
    named, in_corpus = config.mixture.source_weights, {source for source, _, _ in sizes}
    if named and (wrong := sorted(in_corpus ^ named.keys())):
        raise UserError(
            f"mixture.source_weights must name each source once; it differs from the corpus in {', '.join(wrong)} "
            f"(the corpus has: {', '.join(sorted(in_corpus))})"
        )
