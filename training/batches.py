"""From places in the order to tokens: which rank reads what, and how much each step weighs."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs.base import Artifact, UserError
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus
from data_prep.mixture import Order, Samples, Stream, stream_weights
from data_prep.shards import open_tokens


@dataclass(frozen=True)
class _Run:
    """Consecutive tokens of a stream in one shard."""

    path: Path
    start: int
    num_tokens: int


@dataclass(frozen=True)
class MicroBatch:
    """Rows of packed tokens; row i bears loss on its first `lengths[i]` targets."""

    tokens: npt.NDArray[np.int64]
    """(sequences, sequence_length + 1): inputs are all but the last column, targets all but the first."""

    lengths: npt.NDArray[np.int64]
    """(sequences,)."""


class Batches:
    """The training data of one config on one corpus, addressed by optimizer step.

    A stream of n tokens has n - 1 targets, cut every `sequence_length`; the last sample is shorter, never dropped,
    so in an epoch each token is a target exactly once.
    """

    def __init__(self, corpus: Artifact[TokenizedCorpus], config: TrainConfig) -> None:
        self._config = config
        self._runs = _runs_by_stream(corpus)
        keys = [key for key, runs in self._runs.items() if sum(run.num_tokens for run in runs) > 1]
        self._streams = [_TokenStream(self._runs[key]) for key in keys]
        sizes = [
            (*key, stream.num_samples(config.sequence_length)) for key, stream in zip(keys, self._streams, strict=True)
        ]
        _check(sizes, config)
        weights = stream_weights(sizes, config.mixture)
        self.streams = [Stream(*size, weight) for size, weight in zip(sizes, weights, strict=True)]
        self._order = Order(self.streams, seed=config.seed)

    def num_targets(self, step: int) -> int:
        """Loss-bearing tokens of optimizer step `step`, over all ranks; known without reading any."""
        chosen = self._samples(step)
        pairs = zip(chosen.stream.tolist(), chosen.index.tolist(), strict=True)
        length = self._config.sequence_length
        return sum(self._streams[stream].num_targets(index, length) for stream, index in pairs)

    def micro_batches(self, step: int, *, rank: int, world_size: int, size: int) -> Iterator[MicroBatch]:
        """What `rank` reads in optimizer step `step`: equally many batches on every rank.

        Sample i of the step goes to rank i mod world_size. A rank that runs out reads the step's first sample, with
        no loss on it.
        """
        batch = self._config.global_batch_size
        mine = list(range(rank, batch, world_size))
        num_batches = math.ceil(math.ceil(batch / world_size) / size)
        per_batch = math.ceil(len(mine) / num_batches)
        chosen = self._samples(step)
        for number in range(num_batches):
            rows = mine[number * per_batch : (number + 1) * per_batch]
            samples = [(int(chosen.stream[i]), int(chosen.index[i])) for i in rows or [0]]
            yield self._read(samples, bears_loss=bool(rows))

    def _samples(self, step: int) -> Samples:
        first = step * self._config.global_batch_size
        return self._order.samples(first, first + self._config.global_batch_size)

    def _read(self, samples: list[tuple[int, int]], *, bears_loss: bool) -> MicroBatch:
        length = self._config.sequence_length
        tokens = np.zeros((len(samples), length + 1), dtype=np.int64)
        lengths = np.zeros(len(samples), dtype=np.int64)
        for row, (stream, index) in enumerate(samples):
            ids = self._streams[stream].read(index * length, length + 1)
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids) - 1 if bears_loss else 0
        return MicroBatch(tokens, lengths)


class _TokenStream:
    """The tokens of one source in one language, over all shards, end to end."""

    def __init__(self, runs: list[_Run]) -> None:
        self._runs = runs
        self._ends = list(accumulate(run.num_tokens for run in runs))
        self._arrays = {run.path: open_tokens(run.path) for run in runs}

    def num_samples(self, length: int) -> int:
        return -(-(self._ends[-1] - 1) // length)

    def num_targets(self, index: int, length: int) -> int:
        return min(length, self._ends[-1] - 1 - index * length)

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """At most `count` tokens from `start`."""
        pieces = []
        stop = min(start + count, self._ends[-1])
        while start < stop:
            number = bisect_right(self._ends, start)
            run = self._runs[number]
            inside = start - (self._ends[number] - run.num_tokens)
            take = min(stop - start, run.num_tokens - inside)
            pieces.append(self._arrays[run.path][run.start + inside : run.start + inside + take])
            start += take
        return np.concatenate(pieces).astype(np.int64)


def _runs_by_stream(corpus: Artifact[TokenizedCorpus]) -> dict[tuple[str, str], list[_Run]]:
    runs: dict[tuple[str, str], list[_Run]] = {}
    for shard in corpus.manifest.shards:
        start = 0
        for segment in shard.segments:
            run = _Run(corpus.dir / shard.path, start, segment.num_tokens)
            runs.setdefault((shard.source, segment.language), []).append(run)
            start += segment.num_tokens
    return dict(sorted(runs.items()))


def _check(sizes: list[tuple[str, str, int]], config: TrainConfig) -> None:
    available = sum(size for _, _, size in sizes)
    if available < config.global_batch_size:
        raise UserError(
            f"the corpus has {available} sequences of {config.sequence_length} tokens, fewer than one batch of "
            f"{config.global_batch_size}; lower global_batch_size or sequence_length, or add text"
        )
    named, there = config.mixture.source_weights, {source for source, _, _ in sizes}
    if named and (wrong := sorted(there ^ named.keys())):
        raise UserError(
            f"mixture.source_weights must name each source once; it differs from the corpus in {', '.join(wrong)} "
            f"(the corpus has: {', '.join(sorted(there))})"
        )
