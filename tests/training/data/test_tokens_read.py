"""What was read, from the order alone, against walking through the batches."""

from collections import Counter
from pathlib import Path

import pytest

from tests.training.ranks import tiny_config, tiny_corpus
from training.data.batches import Batches
from training.data.position import skip_places, take_places
from training.data.tokens_read import count_tokens_read, find_document_readings
from training.records import OrderRecord, PhaseRecord, Position, StreamRecord

LENGTH = 16


def batches_of(directory: Path, **changes: object) -> Batches:
    return Batches(tiny_corpus(directory), tiny_config(sequence_length=LENGTH, **changes))


def num_samples(batches: Batches) -> int:
    return sum(stream.num_samples for stream in batches.streams)


def with_short_sample_skipped(batches: Batches) -> Position:
    """Leaves out the first reading of some stream's short last sample, and two ranges more."""
    order = batches.order_record()
    missing = [-(stream.num_tokens - 1) % LENGTH for stream in order.streams]
    number = next(i for i, short in enumerate(missing) if short)
    last = batches.streams[number].num_samples - 1
    read = batches.batch((range(0, num_samples(batches) * 2),))
    place = next(
        i
        for i, pair in enumerate(zip(read.stream.tolist(), read.index.tolist(), strict=True))
        if pair == (number, last)
    )
    position = skip_places(skip_places(Position(), place, place + 3), 5, 9)
    return skip_places(position, 4000, 4100)  # yet to come


PHASES = {"phases": [{"budget_tokens": 700, "temperature": 3}, {"source_weights": {"web": 1, "science": 5}}]}


@pytest.mark.parametrize("batch_size", [1, 5, 12])
@pytest.mark.parametrize("skipping", [False, True])
@pytest.mark.parametrize("mixture", [{}, {"source_weights": {"web": 1, "science": 5}}, PHASES])
def test_tokens_read_are_those_that_training_counts(
    tmp_path: Path, batch_size: int, skipping: bool, mixture: dict[str, object]
) -> None:
    batches = batches_of(tmp_path, mixture=mixture)
    order = OrderRecord.model_validate_json(batches.order_record().model_dump_json())
    position = with_short_sample_skipped(batches) if skipping else Position()
    counted = Counter({stream.key: 0 for stream in batches.streams})
    for step in range(3 * num_samples(batches) // batch_size):
        places, position = take_places(position, batch_size)
        counted.update(batches.batch(places).targets_by_stream)
        if step % 7 == 0:
            assert count_tokens_read(order, position) == counted
    assert count_tokens_read(order, position) == counted


def test_before_the_first_step_every_stream_is_there_with_nothing_read(tmp_path: Path) -> None:
    batches = batches_of(tmp_path)
    assert count_tokens_read(batches.order_record(), Position()) == {"science/en": 0, "web/de": 0, "web/sw": 0}


def test_an_epoch_reads_every_target_once(tmp_path: Path) -> None:
    stream = StreamRecord(source="web", language="de", num_tokens=100, num_bytes=300)
    phases = (PhaseRecord(num_samples=None, weights=(1.0,)),)
    order = OrderRecord(seed=3, sequence_length=LENGTH, streams=(stream,), phases=phases, tokens="tokens")
    assert [count_tokens_read(order, Position(next_place=7 * epochs)) for epochs in range(4)] == [
        {"web/de": 99 * epochs} for epochs in range(4)
    ]


@pytest.mark.parametrize("stretch", [(0, 1), (0, 2), (0, 40), (16, 17), (17, 18), (30, 90), (-20, None)])
@pytest.mark.parametrize("stream", [0, 1])
def test_readings_of_a_stretch_are_those_that_walking_finds(
    tmp_path: Path, stretch: tuple[int, int | None], stream: int
) -> None:
    batches = batches_of(tmp_path)
    order = batches.order_record()
    _, position = take_places(with_short_sample_skipped(batches), 3 * num_samples(batches))
    own = order.streams[stream]
    start, stop, _ = slice(*stretch).indices(own.num_tokens)
    readings = find_document_readings(order, position, source=own.source, language=own.language, start=start, stop=stop)
    expected, drawn = [], 0
    for place in range(position.next_place):
        sample = batches.batch((range(place, place + 1),))
        if sample.stream[0] != stream:
            continue
        first = int(sample.index[0]) * LENGTH + 1
        covered = len(range(max(first, start), min(first + sample.num_targets, stop)))
        if covered and not any(low <= place < high for low, high in position.skipped):
            expected.append((place, drawn // batches.streams[stream].num_samples, covered))
        drawn += 1
    assert [(reading.place, reading.epoch, reading.num_tokens) for reading in readings] == expected
    assert bool(expected) == (stop > 1)


def test_a_stream_that_the_order_leaves_out_was_not_read(tmp_path: Path) -> None:
    order = batches_of(tmp_path).order_record()
    position = Position(next_place=100)
    assert find_document_readings(order, position, source="web", language="fr", start=0, stop=1) == []
