"""The order of training samples: a pure function of (seed, streams, k), with no index files and no state.

A stream is one source in one language, cut into samples. Two independent parts decide what sample k is:

* *Which stream*: the k-th point of a golden-ratio Kronecker sequence, frac(c + k / phi), falls into the interval
  that the stream owns on the circle, as long as its weight; phases, which follow each other, have each their weights
  and their sequence, and go on with the draws of the one before. Such a sequence is of low discrepancy (Niederreiter,
  Random Number Generation and Quasi-Monte Carlo Methods, 1992, ch. 3): after any k draws each stream has had its
  share to within a few samples (a few dozen beyond 10**10 draws, where the 64 bits of the ratio show). How often a
  stream was drawn before k is a floor sum, found in O(log) steps like a greatest common divisor.
* *Which of its samples*: the j-th draw of a stream of n samples is number j mod n of epoch j // n, mapped by a
  permutation keyed by (seed, stream, epoch): a Feistel network with cycle walking (Black and Rogaway, Ciphers with
  Arbitrary Finite Domains, CT-RSA 2002). Every epoch visits every sample once.

Neither part knows the world size, the micro-batch or how long training will last. Both can be inverted: a sample gives
its draws, by the network run backwards, and a draw gives its place in the order, by bisection.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_CIRCLE = 1 << 64
_STRIDE = 0x9E3779B97F4A7C15
"""2**64 / phi, rounded to an odd number."""

_ROUNDS = 8
"""Feistel rounds; four already make a pseudo-random permutation (Luby and Rackoff, 1988), and more cost little."""


@dataclass(frozen=True)
class Stream:
    """One source in one language."""

    source: str
    language: str
    num_samples: int

    @property
    def key(self) -> str:
        """`source/language`."""
        return f"{self.source}/{self.language}"


@dataclass(frozen=True)
class Phase:
    """Consecutive places of the order that are drawn by the same weights."""

    num_samples: int | None
    """None: all that follow. Only the last phase may have it."""

    weights: tuple[float, ...]
    """The share of each stream, 0 or more; they are divided by their sum."""


@dataclass(frozen=True)
class Samples:
    """The samples at consecutive places of the order, as three arrays of one length."""

    stream: Ints
    """Index of the stream."""

    epoch: Ints
    """How many times the stream was read through before."""

    index: Ints
    """Index of the sample in its stream."""


class Order:
    """The order of samples over the given streams, fixed by the streams, the phases and the seed. Methods are pure.

    A last phase with an end goes on past it, by its own weights.
    """

    def __init__(self, streams: Sequence[Stream], phases: Sequence[Phase], *, seed: int) -> None:
        self.streams, self.phases = streams, phases
        self._seed = seed
        self._sizes = np.array([stream.num_samples for stream in streams], dtype=np.int64)
        starts = [0, *accumulate(phase.num_samples or 0 for phase in phases[:-1])]
        self._parts = [
            _Part(start, phase.weights, seed, number)
            for number, (start, phase) in enumerate(zip(starts, phases, strict=True))
        ]
        self._before = [dict[int, int]() for _ in phases]
        """By phase: how many samples of a stream all phases before it have, as far as that was asked for."""

    def count_by_stream(self, k: int) -> Ints:
        """Count how many of the first `k` samples are of each stream, (num_streams,)."""
        counts = self._count_samples_of(range(len(self.streams)), k)
        return np.array(list(counts.values()), dtype=np.int64)

    def samples(self, start: int, stop: int) -> Samples:
        """Return the samples at places `start` to `stop - 1`."""
        stream = self._streams_at(start, stop)
        drawn = self._count_samples_of(np.unique(stream).tolist(), start)
        draw = np.array([drawn[i] for i in stream.tolist()], dtype=np.int64) + _count_earlier_equals(stream)
        epoch, position = np.divmod(draw, self._sizes[stream])
        keys = self._permutation_keys(stream, epoch)
        index = _permute(position.astype(np.uint64), self._sizes[stream].astype(np.uint64), keys)
        return Samples(stream, epoch, index.astype(np.int64))

    def find_place(self, stream: int, draw: int) -> int:
        """Return the place of a stream's draw number `draw`, from 0, in the order. It must have one."""
        for number in range(1, len(self._parts)):
            if draw < self._count_before(stream, number):
                return self._find_in_part(stream, draw, number - 1)
        return self._find_in_part(stream, draw, len(self._parts) - 1)

    def _find_in_part(self, stream: int, draw: int, number: int) -> int:
        part = self._parts[number]
        own = draw - self._count_before(stream, number)
        width = part.bounds[stream + 1] - part.bounds[stream]
        guess, reach = (own + 1) * _CIRCLE // width, _CIRCLE // width + 1  # a draw is never far from its share

        def count_before(k: int) -> int:
            return part.count([stream], k)[stream]

        while not count_before(max(0, guess - reach)) <= own < count_before(guess + reach):
            reach *= 2
        low = max(0, guess - reach)
        return part.start + low - 1 + bisect_left(range(low, guess + reach), own + 1, key=count_before)

    def find_draws(self, stream: int, index: int, num_draws: int) -> list[int]:
        """Return which of the first `num_draws` draws of a stream, from 0, give its sample `index`.

        There is at most one in each epoch; they are in order.
        """
        epochs = np.arange(-(-num_draws // int(self._sizes[stream])), dtype=np.int64)
        draws = self._find_draws_in_epochs(np.full_like(epochs, stream), np.full_like(epochs, index), epochs)
        return [draw for draw in draws.tolist() if draw < num_draws]

    def count_draws(self, index: Ints, num_draws: Ints) -> Ints:
        """Count how many of the first `num_draws[i]` draws of each stream i give its sample `index[i]`."""
        epochs = num_draws // self._sizes  # whole epochs; each has one such draw
        return epochs + (self._find_draws_in_epochs(np.arange(len(self._sizes)), index, epochs) < num_draws)

    def _find_draws_in_epochs(self, stream: Ints, index: Ints, epoch: Ints) -> Ints:
        """Return which draw of its stream gives each sample in the given epoch."""
        sizes = self._sizes[stream]
        position = _unpermute(index.astype(np.uint64), sizes.astype(np.uint64), self._permutation_keys(stream, epoch))
        draws: Ints = epoch * sizes + position.astype(np.int64)
        return draws

    def _streams_at(self, start: int, stop: int) -> Ints:
        """Return the stream of each of the samples at places `start` to `stop - 1`."""
        ends = [*(part.start for part in self._parts[1:]), stop]
        pieces = [
            part.streams(max(start, part.start) - part.start, min(stop, end) - part.start)
            for part, end in zip(self._parts, ends, strict=True)
            if max(start, part.start) < min(stop, end)
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    def _count_samples_of(self, streams: Iterable[int], k: int) -> dict[int, int]:
        """Count how many of the first `k` samples are of each of the given streams."""
        number = bisect_right([part.start for part in self._parts], k) - 1
        counts = self._parts[number].count(streams, k - self._parts[number].start)
        return {stream: count + self._count_before(stream, number) for stream, count in counts.items()}

    def _count_before(self, stream: int, number: int) -> int:
        """Count the samples of a stream in all phases before phase `number`."""
        if number == 0:
            return 0
        known, part = self._before[number], self._parts[number - 1]
        if stream not in known:
            own = part.count([stream], self._parts[number].start - part.start)[stream]
            known[stream] = own + self._count_before(stream, number - 1)
        return known[stream]

    def _permutation_keys(self, stream: Ints, epoch: Ints) -> UInts:
        pairs = list(zip(stream.tolist(), epoch.tolist(), strict=True))
        keys = {pair: self._permutation_key(*pair) for pair in set(pairs)}
        return np.array([keys[pair] for pair in pairs], dtype=np.uint64)

    def _permutation_key(self, stream: int, epoch: int) -> int:
        return _hash(f"{self._seed}/{self.streams[stream].key}/{epoch}")


class _Part:
    """A phase from its first place on: which stream each of its samples is of. Places are counted from its start."""

    def __init__(self, start: int, weights: Sequence[float], seed: int, number: int) -> None:
        self.start, self.bounds = start, _bounds(weights)
        self._inner = np.array([bound for bound in self.bounds[1:-1] if bound < _CIRCLE], dtype=np.uint64)
        self._offset = _hash(f"{seed}/interleave" + (f"/{number}" if number else ""))

    def streams(self, first: int, stop: int) -> Ints:
        """Return the stream of each of the samples at places `first` to `stop - 1`."""
        places = np.arange(first, stop, dtype=np.uint64)
        points = places * np.uint64(_STRIDE) + np.uint64(self._offset)  # modulo 2**64
        return np.searchsorted(self._inner, points, side="right").astype(np.int64)

    def count(self, streams: Iterable[int], k: int) -> dict[int, int]:
        """Count how many of the first `k` samples are of each of the given streams."""
        turns: dict[int, int] = {}  # bound -> times that the first k points pass it; neighbouring streams share a bound
        streams = list(streams)
        for i in (end for stream in streams for end in (stream, stream + 1)):
            if i not in turns:
                turns[i] = _floor_sum(k, _CIRCLE, _STRIDE, self._offset - self.bounds[i] + _CIRCLE)
        return {stream: turns[stream] - turns[stream + 1] for stream in streams}


def _bounds(weights: Sequence[float]) -> list[int]:
    """Return the bounds of the streams' intervals on a circle of 2**64 points, from 0 to 2**64."""
    sums = list(accumulate(weights))
    return [0, *(round(partial / sums[-1] * _CIRCLE) for partial in sums[:-1]), _CIRCLE]


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Return the sum of floor((a i + b) / m) over i = 0 .. n - 1, for a, b >= 0 (Graham, Knuth, Patashnik, ch. 3.5)."""
    total = 0
    while n > 0:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        n, m, a, b = top // m, a, m, top % m
        if m == 0:
            break
    return total


def _count_earlier_equals(values: Ints) -> Ints:
    """Count for each value how many of the values before it equal it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    result = np.empty(len(values), dtype=np.int64)
    result[order] = np.arange(len(values)) - starts
    return result


def _permute(position: UInts, size: UInts, key: UInts) -> UInts:
    """Map each position in [0, size) by the permutation of [0, size) that its key names."""
    return _walk(_feistel, position, size, key)


def _unpermute(index: UInts, size: UInts, key: UInts) -> UInts:
    """Return the position that `_permute` maps to each index."""
    return _walk(_feistel_inverse, index, size, key)


def _walk(permute: Callable[[UInts, UInts, UInts], UInts], start: UInts, size: UInts, key: UInts) -> UInts:
    """Apply `permute` to each start in [0, size) again and again until the value is back in [0, size)."""
    half = np.array([max(1, -(-int(n - 1).bit_length() // 2)) for n in size.tolist()], dtype=np.uint64)
    rounds = np.arange(_ROUNDS, dtype=np.uint64) * np.uint64(_STRIDE)  # modulo 2**64
    keys = _mix(rounds[:, np.newaxis] + key)
    value = permute(start, half, keys)
    while (outside := value >= size).any():  # cycle walking: under 4 rounds on average, as 4 ** half < 4 * size
        value[outside] = permute(value[outside], half[outside], keys[:, outside])
    return value


def _feistel(value: UInts, half: UInts, keys: UInts) -> UInts:
    """Apply a permutation of [0, 4 ** half), with one key a round."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _feistel_inverse(value: UInts, half: UInts, keys: UInts) -> UInts:
    """Apply the permutation that undoes `_feistel`."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys[::-1]:
        right, left = left, right ^ (_mix(left ^ key) & mask)
    return (left << half) | right


def _mix(x: UInts) -> UInts:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
