"""Batches of training samples: which samples are at given places of the order, and which rank reads which of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from configs.base import Artifact, UserError
from configs.training.train import TrainConfig
from data_prep.manifests import TokenizedCorpus
from data_prep.tokens.join import names_of
from data_prep.tokens.mixture import plan_phases
from data_prep.tokens.sample_order import Ints, Order, Stream
from training.data.passes import PassPlan
from training.data.token_stream import open_token_streams
from training.records import OrderRecord, PhaseRecord, StreamRecord

EMPTY_TOKENS = 8
"""Tokens of a pass without samples, which a rank runs for the sake of the others: they wait for its collectives."""

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


class Samples:
    """The samples of a corpus: its streams cut into sequences.

    A stream of n tokens has n - 1 targets, cut every `sequence_length`; the last sample is shorter, never dropped,
    so in an epoch each token is a target exactly once.
    """

    def __init__(self, corpus: Artifact[TokenizedCorpus], *, sequence_length: int) -> None:
        found = {key: tokens for key, tokens in open_token_streams(corpus).items() if tokens.num_tokens > 1}
        self._length = sequence_length
        self.streams = [Stream(*key, -(-(tokens.num_tokens - 1) // sequence_length)) for key, tokens in found.items()]
        self._tokens = list(found.values())
        self._num_targets = np.array([tokens.num_tokens - 1 for tokens in self._tokens], dtype=np.int64)

    def records(self) -> tuple[StreamRecord, ...]:
        """Return what the streams are."""
        return tuple(
            StreamRecord(
                source=stream.source,
                language=stream.language,
                num_tokens=tokens.num_tokens,
                num_bytes=tokens.num_bytes,
            )
            for stream, tokens in zip(self.streams, self._tokens, strict=True)
        )

    def collect(self, stream: Ints, index: Ints) -> Batch:
        """Return the batch of some samples: the stream of each, and its number there."""
        targets = np.minimum(self._length, self._num_targets[stream] - index * self._length)
        by_stream = np.zeros(len(self.streams), dtype=np.int64)
        np.add.at(by_stream, stream, targets)
        named = {self.streams[i].key: int(by_stream[i]) for i in np.flatnonzero(by_stream)}
        return Batch(stream, index, int(targets.sum()), named)

    def micro_batches(
        self, batch: Batch, plan: PassPlan, *, rank: int, equal_rows: bool = False
    ) -> Iterator[MicroBatch]:
        """Yield the micro-batches that `rank` reads of a batch, by a plan for as many samples: one for each pass.

        In a pass without samples of its own it reads the beginning of the batch's first one, with no loss on it. With
        `equal_rows` whole such rows fill up smaller micro-batches, so that all of a rank have equally many, and
        compiled layers are compiled for one number.
        """
        most = max(1, int(plan.sizes[rank].max()))
        for rows in plan.rows(rank):
            num_empty = most - len(rows) if equal_rows else int(not len(rows))
            chosen = np.append(rows, np.zeros(num_empty, dtype=np.int64))
            micro = self.read(batch, chosen, num_targetless=num_empty)
            if not len(rows) and not equal_rows:
                micro = replace(micro, tokens=micro.tokens[:, : EMPTY_TOKENS + 1])
            yield micro

    def read(self, batch: Batch, rows: Ints, *, num_targetless: int = 0) -> MicroBatch:
        """Read samples of a batch by their numbers in it; the last ones bear no loss."""
        streams, indices = batch.stream[rows], batch.index[rows]
        length = self._length
        tokens = np.zeros((len(streams), length + 1), dtype=np.int64)
        lengths = np.zeros(len(streams), dtype=np.int64)
        for row, (stream, index) in enumerate(zip(streams.tolist(), indices.tolist(), strict=True)):
            ids = self._tokens[stream].read(index * length, length + 1)
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids) - 1 if row < len(streams) - num_targetless else 0
        return MicroBatch(tokens, lengths, streams)


class Batches(Samples):
    """The training data of one config on one corpus, addressed by places in the order of samples."""

    def __init__(self, corpus: Artifact[TokenizedCorpus], config: TrainConfig) -> None:
        super().__init__(corpus, sequence_length=config.sequence_length)
        self._seed, self._names = config.seed, names_of(corpus)
        _check_size(self.streams, config)
        phases = plan_phases(self.streams, config.mixture, sequence_length=config.sequence_length)
        self._order = Order(self.streams, phases, seed=config.seed)

    def order_record(self) -> OrderRecord:
        """Return all that the order is a function of."""
        return OrderRecord(
            seed=self._seed,
            sequence_length=self._length,
            streams=self.records(),
            phases=tuple(PhaseRecord(num_samples=p.num_samples, weights=p.weights) for p in self._order.phases),
            tokens=self._names,
        )

    def batch(self, places: tuple[range, ...]) -> Batch:
        """Return the batch of the samples at the given places."""
        pieces = [self._order.samples(piece.start, piece.stop) for piece in places]
        stream = np.concatenate([piece.stream for piece in pieces])
        index = np.concatenate([piece.index for piece in pieces])
        return self.collect(stream, index)


def check_same_order(record: OrderRecord, now: OrderRecord, *, next_place: int) -> None:
    """Raise UserError if a training that has read the order `record` up to `next_place` cannot go on in `now`.

    Phases that have not begun there may be others.
    """
    if differences := _differences(record, now, next_place=next_place):
        raise UserError(
            f"init_from.mode `continue` cannot go on in another order of the data, which would repeat or skip samples; "
            f"it differs in {', '.join(differences)}; keep these as they were, or use `mode: weights` for a new "
            "training on other data"
        )


def _differences(record: OrderRecord, now: OrderRecord, *, next_place: int) -> list[str]:
    found = [
        f"{name} ({getattr(record, name)} before, {getattr(now, name)} now)"
        for name in ("seed", "sequence_length")
        if getattr(record, name) != getattr(now, name)
    ]
    if changed := _changed_streams(record, now, lambda stream: (stream.num_tokens, stream.num_bytes)):
        found.append(f"the text of {changed}")
    if not found:  # a change of length or text changes weights, too
        found += _changed_phases(record, now, next_place=next_place)
    return found


def _changed_phases(record: OrderRecord, now: OrderRecord, *, next_place: int) -> list[str]:
    start, num_phases = 0, (len(record.phases), len(now.phases))
    for number in range(max(num_phases)):
        if start >= next_place:
            break
        before, after = (order.phases[number : number + 1] for order in (record, now))
        if not before or not after:
            return ["the number of phases ({} before, {} now)".format(*num_phases)]
        weights = [dict(zip(_keys(record), phase.weights, strict=True)) for phase in (*before, *after)]
        if changed := _names(key for key in weights[0] if weights[0][key] != weights[1][key]):
            return [f"the weight of {changed}{f' in phase {number}' if max(num_phases) > 1 else ''}"]
        lengths = [phase.num_samples for phase in (*before, *after)]
        if lengths[0] != lengths[1] and not all(n is None or start + n >= next_place for n in lengths):
            return [f"the length of phase {number} ({lengths[0]} before, {lengths[1]} samples now)"]
        start = next_place if None in lengths else start + min(n for n in lengths if n is not None)
    return []


def _keys(order: OrderRecord) -> list[str]:
    return [f"{stream.source}/{stream.language}" for stream in order.streams]


def _changed_streams(record: OrderRecord, now: OrderRecord, value: Callable[[StreamRecord], object]) -> str:
    before, after = ({f"{s.source}/{s.language}": value(s) for s in order.streams} for order in (record, now))
    return _names(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _names(changed: Iterable[str]) -> str:
    names = sorted(changed)
    more = [f"{len(names) - _MAX_NAMED} more streams"] if len(names) > _MAX_NAMED else []
    return " and ".join([*([", ".join(names[:_MAX_NAMED])] if names else []), *more])


def _check_size(streams: list[Stream], config: TrainConfig) -> None:
    available = sum(stream.num_samples for stream in streams)
    if available < config.global_batch_size:
        raise UserError(
            f"the corpus has {available} sequences of {config.sequence_length} tokens, fewer than one batch of "
            f"{config.global_batch_size}; lower global_batch_size or sequence_length, or add text"
        )
