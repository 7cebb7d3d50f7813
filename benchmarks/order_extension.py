"""Stop half-way through an epoch, extend training from 1.0 to 1.5 epochs, resume, and measure how much is read again.

    python benchmarks/order_extension.py [--samples 10000] [--seeds 3]

A sample counts as repeated if it is read again before every sample of its stream has been read once. Compared with the
order of Megatron-LM's GPT dataset, written here from its rule: document and sample indices are shuffled over as many
epochs as the planned length needs, so the length is part of the order. It prints one JSON line for each seed, then the
means.
"""

import argparse
import json
from collections import Counter
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_prep.tokens.sample_order import Order, Phase, Stream
from training.data.position import take_places
from training.records import Position

Sample = tuple[int, int]
"""Index of the stream, and of the sample in it."""

SEPARATE_BELOW = 0.8
"""A last epoch of which a smaller share is used is shuffled separately from those before it."""


def megatron_order(num_samples: int, epochs: float, *, seed: int) -> npt.NDArray[np.int64]:
    """Return the samples in the order of a training planned for `epochs`, with one document in each sample."""
    wanted = int(num_samples * epochs)
    num_epochs = -(-wanted // num_samples)
    last = wanted - (num_epochs - 1) * num_samples
    apart = num_epochs > 1 and last < SEPARATE_BELOW * num_samples
    blocks = [num_epochs - 1, 1] if apart else [num_epochs]
    random = np.random.RandomState(seed)
    documents = np.concatenate([_shuffled(np.tile(np.arange(num_samples), block), random) for block in blocks])
    sizes = np.cumsum([0, *blocks]) * num_samples
    places = np.concatenate([_shuffled(np.arange(*ends), random) for ends in pairwise(sizes)])
    return documents[places][:wanted]


def _shuffled(values: npt.NDArray[np.int64], random: np.random.RandomState) -> npt.NDArray[np.int64]:
    random.shuffle(values)
    return values


def megatron_repeats(num_samples: int, seed: int) -> float:
    """Return the repeated share of a run that resumes at its place in the order of the longer plan."""
    planned, extended = (megatron_order(num_samples, epochs, seed=seed).tolist() for epochs in (1.0, 1.5))
    half = num_samples // 2
    return repeated_share(
        *([(0, i) for i in part] for part in (planned[:half], extended[half:num_samples])), [num_samples]
    )


def concord_repeats(sizes: list[int], seed: int) -> float:
    """Return Concord's repeated share over one stream or several, with another batch size after the stop."""
    streams = [Stream("web", f"language-{i}", size) for i, size in enumerate(sizes)]
    read, position = _read_samples(streams, seed, Position(), batch_size=8, num_samples=sum(sizes) // 2)
    rest, _ = _read_samples(streams, seed, position, batch_size=12, num_samples=sum(sizes) - len(read))
    return repeated_share(read, rest, sizes)


def repeated_share(read: list[Sample], rest: list[Sample], sizes: list[int]) -> float:
    """Return the share of `rest` that was read before while samples of its stream were still unread."""
    seen, num_seen, repeated = set(read), Counter(stream for stream, _ in set(read)), 0
    for sample in rest:
        if sample not in seen:
            seen.add(sample)
            num_seen[sample[0]] += 1
        elif num_seen[sample[0]] < sizes[sample[0]]:
            repeated += 1
    return repeated / len(rest)


def _read_samples(
    streams: list[Stream], seed: int, position: Position, *, batch_size: int, num_samples: int
) -> tuple[list[Sample], Position]:
    phase = Phase(None, tuple(float(stream.num_samples) for stream in streams))
    order, read = Order(streams, [phase], seed=seed), list[Sample]()
    while len(read) < num_samples:
        places, position = take_places(position, min(batch_size, num_samples - len(read)))
        for piece in places:
            samples = order.samples(piece.start, piece.stop)
            read += list(zip(samples.stream.tolist(), samples.index.tolist(), strict=True))
    return read, position


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    number = arguments.samples
    mixture = [number // 2, number // 4, number // 8, number // 16, number // 16]
    shares: dict[str, list[float]] = {"megatron_rule": [], "concord": [], "concord_five_streams": []}
    for seed in range(arguments.seeds):
        shares["megatron_rule"].append(megatron_repeats(number, 1234 + seed))
        shares["concord"].append(concord_repeats([number], seed))
        shares["concord_five_streams"].append(concord_repeats(mixture, seed))
        print(json.dumps({"seed": seed, **{name: round(values[-1], 4) for name, values in shares.items()}}), flush=True)
    means = {name: round(sum(values) / len(values), 4) for name, values in shares.items()}
    print(json.dumps({"repeated_share_of_resumed_samples": means}))


if __name__ == "__main__":
    main()
