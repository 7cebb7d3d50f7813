"""The order of training samples: a pure function of (seed, streams, k), with no index files and no state.

A stream is one source in one language, cut into samples. Two independent parts decide what sample k is:

* *Which stream*: the k-th point of a golden-ratio Kronecker sequence, frac(c + k / phi), falls into the interval
  that the stream owns on the circle, as long as its weight. Such a sequence is of low discrepancy (Niederreiter,
  Random Number Generation and Quasi-Monte Carlo Methods, 1992, ch. 3): after any k draws each stream has had its
  share to within a few samples (a few dozen beyond 10**10 draws, where the 64 bits of the ratio show). How often a
  stream was drawn before k is a floor sum, found in O(log) steps like a greatest common divisor.
* *Which of its samples*: the j-th draw of a stream of n samples is number j mod n of epoch j // n, sent through a
  permutation keyed by (seed, stream, epoch): a Feistel network with cycle walking (Black and Rogaway, Ciphers with
  Arbitrary Finite Domains, CT-RSA 2002). Every epoch visits every sample once.

Neither part knows the world size, the micro-batch or how long training will last. Both can be turned around: from a
sample to its draws, by the network run backwards, and from a draw to its place, by bisection.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from configs.training import MixtureConfig

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_CIRCLE = 1 << 64
_STRIDE = 0x9E3779B97F4A7C15
"""2**64 / phi, rounded to an odd number."""

_ROUNDS = 8
"""Feistel rounds; four make a pseudo-random permutation (Luby and Rackoff, 1988), more cost little."""


@dataclass(frozen=True)
class Stream:
    """One source in one language: `num_samples` samples, drawn in proportion to `weight`."""

    source: str
    language: str
    num_samples: int
    weight: float

    @property
    def key(self) -> str:
        """`source/language`."""
        return f"{self.source}/{self.language}"


@dataclass(frozen=True)
class Samples:
    """Which samples stand at consecutive places of the order; three arrays of one length."""

    stream: Ints
    """Index of the stream."""

    epoch: Ints
    """How often the stream had been read through before."""

    index: Ints
    """Number of the sample in its stream."""


class Order:
    """The order over the given streams. Methods are pure; the streams' sequence and the seed are its identity."""

    def __init__(self, streams: Sequence[Stream], *, seed: int) -> None:
        self.streams = streams
        self._seed = seed
        self._sizes = np.array([stream.num_samples for stream in streams], dtype=np.int64)
        self._bounds = _bounds([stream.weight for stream in streams])
        self._upper = np.array([bound - 1 for bound in self._bounds[1:]], dtype=np.uint64)
        self._offset = _hash(f"{seed}/interleave")

    def counts(self, k: int) -> Ints:
        """How many of the first `k` samples are of each stream."""
        counts = self._counts(range(len(self.streams)), k)
        return np.array(list(counts.values()), dtype=np.int64)

    def samples(self, start: int, stop: int) -> Samples:
        """The samples at places `start` to `stop - 1`."""
        places = np.arange(start, stop, dtype=np.uint64)
        points = places * np.uint64(_STRIDE) + np.uint64(self._offset)  # modulo 2**64
        stream = np.searchsorted(self._upper, points, side="left").astype(np.int64)
        drawn = self._counts(np.unique(stream).tolist(), start)
        draw = np.array([drawn[i] for i in stream.tolist()], dtype=np.int64) + _earlier_equals(stream)
        epoch, position = np.divmod(draw, self._sizes[stream])
        keys = self._keys(stream, epoch)
        index = _permute(position.astype(np.uint64), self._sizes[stream].astype(np.uint64), keys)
        return Samples(stream, epoch, index.astype(np.int64))

    def place_of(self, stream: int, draw: int) -> int:
        """The place at which draw number `draw`, from 0, of a stream stands."""
        width = self._bounds[stream + 1] - self._bounds[stream]
        guess, reach = (draw + 1) * _CIRCLE // width, _CIRCLE // width + 1  # a draw is never far from its share
        while not self._count(stream, max(0, guess - reach)) <= draw < self._count(stream, guess + reach):
            reach *= 2
        low = max(0, guess - reach)
        return low - 1 + bisect_left(range(low, guess + reach), draw + 1, key=lambda k: self._count(stream, k))

    def draws_of(self, stream: int, index: int, num_draws: int) -> list[int]:
        """Which of the first `num_draws` draws of a stream, from 0, give its sample `index`: one an epoch, in order."""
        epochs = np.arange(-(-num_draws // int(self._sizes[stream])), dtype=np.int64)
        draws = self._draws(np.full_like(epochs, stream), np.full_like(epochs, index), epochs)
        return [draw for draw in draws.tolist() if draw < num_draws]

    def num_draws_of(self, index: Ints, num_draws: Ints) -> Ints:
        """How many of the first `num_draws[i]` draws of each stream i give its sample `index[i]`."""
        epochs = num_draws // self._sizes  # so many whole ones, each with one such draw
        return epochs + (self._draws(np.arange(len(self._sizes)), index, epochs) < num_draws)

    def _draws(self, stream: Ints, index: Ints, epoch: Ints) -> Ints:
        """Which draw of its stream gives each sample in the given epoch."""
        sizes = self._sizes[stream]
        position = _unpermute(index.astype(np.uint64), sizes.astype(np.uint64), self._keys(stream, epoch))
        draws: Ints = epoch * sizes + position.astype(np.int64)
        return draws

    def _count(self, stream: int, k: int) -> int:
        return self._counts([stream], k)[stream]

    def _counts(self, streams: Iterable[int], k: int) -> dict[int, int]:
        """How many of the first `k` samples are of each of the given streams."""
        turns: dict[int, int] = {}  # of the first k points past each bound; neighbours share one
        for i in (end for stream in streams for end in (stream, stream + 1)):
            if i not in turns:
                turns[i] = _floor_sum(k, _CIRCLE, _STRIDE, self._offset - self._bounds[i] + _CIRCLE)
        return {stream: turns[stream] - turns[stream + 1] for stream in streams}

    def _keys(self, stream: Ints, epoch: Ints) -> UInts:
        pairs = list(zip(stream.tolist(), epoch.tolist(), strict=True))
        keys = {pair: self._key(*pair) for pair in set(pairs)}
        return np.array([keys[pair] for pair in pairs], dtype=np.uint64)

    def _key(self, stream: int, epoch: int) -> int:
        return _hash(f"{self._seed}/{self.streams[stream].key}/{epoch}")


def stream_weights(sizes: Sequence[tuple[str, str, int]], mixture: MixtureConfig) -> list[float]:
    """The weight of each (source, language, samples), summing to one.

    A source's weight is the mixture's, or its samples; within it a language's is samples ** (1 / temperature).
    """
    total: dict[str, float] = {}
    within: dict[str, float] = {}
    for source, _, samples in sizes:
        total[source] = total.get(source, 0.0) + samples
        within[source] = within.get(source, 0.0) + samples ** (1 / mixture.temperature)
    of_source = mixture.source_weights or total
    whole = sum(of_source[source] for source in total)
    return [
        of_source[source] / whole * samples ** (1 / mixture.temperature) / within[source]
        for source, _, samples in sizes
    ]


def _bounds(weights: Sequence[float]) -> list[int]:
    """Ends of the streams' intervals on a circle of 2**64 points, the first at 0 and the last at 2**64."""
    sums = list(accumulate(weights))
    return [0, *(round(partial / sums[-1] * _CIRCLE) for partial in sums[:-1]), _CIRCLE]


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """The sum of floor((a i + b) / m) over i = 0 .. n - 1, for a, b >= 0 (Graham, Knuth, Patashnik, ch. 3.5)."""
    total = 0
    while n > 0:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        n, m, a, b = top // m, a, m, top % m
        if m == 0:
            break
    return total


def _earlier_equals(values: Ints) -> Ints:
    """For each value, how many of the values before it equal it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    result = np.empty(len(values), dtype=np.int64)
    result[order] = np.arange(len(values)) - starts
    return result


def _permute(position: UInts, size: UInts, key: UInts) -> UInts:
    """Send each position in [0, size) through the permutation of [0, size) that its key names."""
    return _walk(_feistel, position, size, key)


def _unpermute(index: UInts, size: UInts, key: UInts) -> UInts:
    """The position that `_permute` sends to each index."""
    return _walk(_feistel_inverse, index, size, key)


def _walk(turn: Callable[[UInts, UInts, UInts], UInts], start: UInts, size: UInts, key: UInts) -> UInts:
    """Take turns from each start in [0, size) until back in [0, size)."""
    half = np.array([max(1, -(-int(n - 1).bit_length() // 2)) for n in size.tolist()], dtype=np.uint64)
    rounds = np.arange(_ROUNDS, dtype=np.uint64) * np.uint64(_STRIDE)  # modulo 2**64
    keys = _mix(rounds[:, np.newaxis] + key)
    value = turn(start, half, keys)
    while (outside := value >= size).any():  # cycle walking: under 4 turns on average, as 4 ** half < 4 * size
        value[outside] = turn(value[outside], half[outside], keys[:, outside])
    return value


def _feistel(value: UInts, half: UInts, keys: UInts) -> UInts:
    """A permutation of [0, 4 ** half), by one key a round."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _feistel_inverse(value: UInts, half: UInts, keys: UInts) -> UInts:
    """The permutation that undoes `_feistel`."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys[::-1]:
        right, left = left, right ^ (_mix(left ^ key) & mask)
    return (left << half) | right


def _mix(x: UInts) -> UInts:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
