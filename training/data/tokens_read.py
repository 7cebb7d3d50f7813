"""What a training has read, computed from the order of its samples alone: no text and no tokens are read."""

from dataclasses import dataclass

import numpy as np

from data_prep.tokens.sample_order import Ints, Order, Phase, Stream
from training.data.position import is_skipped
from training.records import OrderRecord, Position


@dataclass(frozen=True)
class Reading:
    """One sample that was read and whose targets cover part of a document."""

    place: int
    """The sample's place in the order."""

    epoch: int
    """How often its stream had been read through before."""

    num_tokens: int
    """Targets of the sample among the document's tokens."""


def count_tokens_read(order: OrderRecord, position: Position) -> dict[str, int]:
    """Count the targets read before a position, by `source/language`; streams that were not read are 0.

    They are exactly the tokens that training takes its loss over. The time does not depend on how many they are.
    """
    drawn = order_of(order)
    last = np.array([stream.num_samples - 1 for stream in drawn.streams])
    num_targets = np.array([stream.num_tokens - 1 for stream in order.streams])
    missing = (last + 1) * order.sequence_length - num_targets  # from the last sample; all others are full

    def count_before(place: int) -> Ints:
        num_draws = drawn.count_by_stream(place)
        num_read: Ints = num_draws * order.sequence_length - drawn.count_draws(last, num_draws) * missing
        return num_read

    read = count_before(position.next_place)
    for first, stop in position.skipped:
        if first < position.next_place:
            read -= count_before(min(stop, position.next_place)) - count_before(first)
    return {stream.key: total for stream, total in zip(drawn.streams, read.tolist(), strict=True)}


def find_document_readings(
    order: OrderRecord, position: Position, *, source: str, language: str, start: int, stop: int
) -> list[Reading]:
    """Find the samples read before a position that have targets among tokens `start` to `stop - 1` of a stream.

    They are sorted by place. There are none for a stream that the order leaves out because it has no target.
    """
    names = [(stream.source, stream.language) for stream in order.streams]
    if (source, language) not in names:
        return []
    stream, drawn, length = names.index((source, language)), order_of(order), order.sequence_length
    num_draws = int(drawn.count_by_stream(position.next_place)[stream])
    size = drawn.streams[stream].num_samples
    readings = []
    for index in range((max(start, 1) - 1) // length, (stop - 2) // length + 1):  # token t is target t - 1
        covered = min(stop - 1, (index + 1) * length) - max(start - 1, index * length)
        for draw in drawn.find_draws(stream, index, num_draws):
            if not is_skipped(position, place := drawn.find_place(stream, draw)):
                readings.append(Reading(place, draw // size, covered))
    return sorted(readings, key=lambda reading: reading.place)


def order_of(record: OrderRecord) -> Order:
    """Return the order of samples that a record describes."""
    length = record.sequence_length
    streams = [Stream(s.source, s.language, -(-(s.num_tokens - 1) // length)) for s in record.streams]
    phases = [Phase(phase.num_samples, phase.weights) for phase in record.phases]
    return Order(streams, phases, seed=record.seed)
