"""Which tokens each rank reads in each step."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import Artifact, UserError
from configs.training.train import TrainConfig
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from tests.training.ranks import tiny_config, tiny_corpus
from training.data.batches import Batch, Batches, check_same_order
from training.data.passes import even_plan
from training.records import OrderRecord

LENGTH = 8
Layout = list[tuple[str, list[tuple[str, int]]]]
"""Shards: source, and the language and number of tokens of each segment."""

LAYOUT: Layout = [
    ("web", [("de", 21), ("sw", 3)]),
    ("web", [("de", 1), ("en", 30)]),
    ("web", [("de", 12), ("sw", 6)]),
    ("science", [("en", 17)]),
]


def corpus(directory: Path, layout: Layout = LAYOUT) -> Artifact[TokenizedCorpus]:
    """Every token of the corpus has an id of its own."""
    shards, first = [], 0
    for number, (source, segments) in enumerate(layout):
        documents = []
        for _, size in segments:
            documents.append(list(range(first, first + size)))
            first += size
        write_shard(directory / f"{number}", documents, dtype_for(70_000))
        rows = [Segment(language=name, num_documents=1, num_tokens=size, num_bytes=size) for name, size in segments]
        shards.append(TokenShard(path=f"{number}", source=source, segments=tuple(rows)))
    manifest = TokenizedCorpus(shards=tuple(shards), vocab_size=70_000, eos_id=1, unigram_entropy=1.0)
    return Artifact(directory, manifest)


def plain_streams(layout: Layout = LAYOUT) -> dict[tuple[str, str], list[int]]:
    """The streams, by plain concatenation."""
    streams: dict[tuple[str, str], list[int]] = {}
    first = 0
    for source, segments in layout:
        for language, size in segments:
            streams.setdefault((source, language), []).extend(range(first, first + size))
            first += size
    return dict(sorted(streams.items()))


def config(**changes: Any) -> TrainConfig:
    return tiny_config(**{"sequence_length": LENGTH, "global_batch_size": 5, **changes})


def batch_of(batches: Batches, step: int, size: int = 5) -> Batch:
    return batches.batch((range(step * size, (step + 1) * size),))


def rows(batches: Batches, batch: Batch, *, world_size: int = 1, size: int = 100) -> list[tuple[int, ...]]:
    """The tokens of each row that bears loss, with those that only give context, over all ranks."""
    found = []
    for rank in range(world_size):
        for micro in batches.micro_batches(batch, even_plan(len(batch.stream), world_size, size=size), rank=rank):
            assert len(micro.tokens) <= size
            pairs = zip(micro.tokens.tolist(), micro.lengths.tolist(), strict=True)
            found += [tuple(row[: length + 1]) for row, length in pairs if length]
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_share_a_batch_without_loss_or_repeat(tmp_path: Path, world_size: int, size: int) -> None:
    batches = Batches(corpus(tmp_path), config())
    for batch_size in (5, 3, 8):
        for step in range(6):
            batch = batch_of(batches, step, batch_size)
            whole = rows(batches, batch)
            assert len(whole) == batch_size
            assert Counter(rows(batches, batch, world_size=world_size, size=size)) == Counter(whole)
            assert batch.num_targets == sum(len(row) - 1 for row in whole)


def test_targets_are_counted_by_stream(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path), config())
    streams = {"/".join(key): set(tokens) for key, tokens in plain_streams().items()}
    for step in range(12):
        batch = batch_of(batches, step)
        counted: Counter[str] = Counter()
        for row in rows(batches, batch):
            counted.update({name: len(row) - 1 for name, tokens in streams.items() if row[0] in tokens})
        assert batch.targets_by_stream == counted
        assert batch.num_targets == counted.total()


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_row_says_its_stream(tmp_path: Path, world_size: int) -> None:
    batches = Batches(corpus(tmp_path), config())
    streams = [set(tokens) for tokens in plain_streams().values()]
    batch = batch_of(batches, 1, 4)
    for rank in range(world_size):
        for micro in batches.micro_batches(batch, even_plan(len(batch.stream), world_size, size=2), rank=rank):
            assert all(row[0] in streams[i] for row, i in zip(micro.tokens.tolist(), micro.streams, strict=True))


def test_a_batch_jumps_over_what_is_left_out(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path), config())
    by_place = [rows(batches, batches.batch((range(place, place + 1),)))[0] for place in range(20)]
    jumping = batches.batch((range(2, 4), range(9, 11), range(15, 16)))
    assert rows(batches, jumping) == [by_place[place] for place in (2, 3, 9, 10, 15)]


def test_a_batch_past_the_end_of_an_epoch_goes_on_in_the_next(tmp_path: Path) -> None:
    layout: Layout = [("web", [("de", 7 * LENGTH + 1)])]
    batches = Batches(corpus(tmp_path, layout), config())
    first, second = (rows(batches, batches.batch((places,))) for places in (range(0, 7), range(7, 14)))
    assert set(first) == set(second) and len(set(first)) == 7
    assert rows(batches, batch_of(batches, 1)) == [*first[5:], *second[:3]]
    assert rows(batches, batches.batch((range(0, 14),))) == first + second


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_has_equally_many_micro_batches(tmp_path: Path, world_size: int, size: int) -> None:
    batches = Batches(corpus(tmp_path), config())
    batch = batch_of(batches, 0)
    counts = {
        len(list(batches.micro_batches(batch, even_plan(len(batch.stream), world_size, size=size), rank=rank)))
        for rank in range(world_size)
    }
    assert counts == {math.ceil(math.ceil(5 / world_size) / size)}


def test_rows_are_cut_from_the_streams_across_shards(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path), config())
    expected = {
        tuple(tokens[start : start + LENGTH + 1])
        for tokens in plain_streams().values()
        for start in range(0, len(tokens) - 1, LENGTH)
    }
    seen = set(rows(batches, batches.batch((range(0, 200),))))
    assert seen == expected
    assert any(set(np.diff(row)) - {1} for row in seen), "a row must cross shards"


@pytest.mark.parametrize("layout", [LAYOUT, [("web", [("de", 33), ("en", 4)]), ("web", [("en", 29)])]])
def test_in_an_epoch_each_token_but_a_streams_first_is_a_target_once(tmp_path: Path, layout: Layout) -> None:
    """One batch is as long as the corpus; per stream, what is drawn by then is its first epoch."""
    streams = plain_streams(layout)
    num_samples = {key: -(-(len(tokens) - 1) // LENGTH) for key, tokens in streams.items()}
    batches = Batches(corpus(tmp_path, layout), config())
    left, targets = dict(num_samples), Counter[int]()
    pairs = {pair: key for key, tokens in streams.items() for pair in pairwise(tokens)}
    for step in range(20 * sum(num_samples.values())):
        (row,) = rows(batches, batch_of(batches, step, 1))
        key = pairs[row[0], row[1]]
        if left[key] > 0:
            left[key] -= 1
            targets.update(row[1:])
    assert not any(left.values())
    assert targets == Counter(token for tokens in streams.values() for token in tokens[1:])


def test_padding_bears_no_loss_and_reads_no_other_stream(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path), config())
    streams = [set(tokens) for tokens in plain_streams().values()]
    short = 0
    for step in range(6):
        (batch,) = batches.micro_batches(batch_of(batches, step, 8), even_plan(8, 1, size=8), rank=0)
        assert batch.tokens.shape == (8, LENGTH + 1)
        for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True):
            assert any(set(row[: length + 1]) <= stream for stream in streams)
            short += length < LENGTH
    assert short


def test_the_order_is_the_same_however_long_training_and_its_batches_are(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    planned, extended = (
        Batches(made, config(num_steps=steps, global_batch_size=size)) for steps, size in ((10, 5), (30, 2))
    )
    assert [row for step in range(10) for row in rows(planned, batch_of(planned, step))] == [
        row for step in range(25) for row in rows(extended, batch_of(extended, step, 2))
    ]


def test_half_an_epoch_and_the_next_share_no_row(tmp_path: Path) -> None:
    layout: Layout = [("web", [("de", 100 * LENGTH + 1)]), ("web", [("de", 100 * LENGTH)])]
    batches = Batches(corpus(tmp_path, layout), config())
    first, second = (rows(batches, batches.batch((places,))) for places in (range(0, 100), range(100, 200)))
    assert len(set(first) & set(second)) == 0
    assert len(set(first) | set(second)) == 200


def test_order_depends_on_the_seed(tmp_path: Path) -> None:
    made = tiny_corpus(tmp_path)
    one, same, other = (Batches(made, tiny_config(seed=seed)) for seed in (1, 1, 2))
    read = [rows(batches, batch_of(batches, 0)) for batches in (one, same, other)]
    assert read[0] == read[1] != read[2]


def test_source_weights_steer_what_is_read(tmp_path: Path) -> None:
    mixture = {"source_weights": {"web": 1, "science": 3}}
    batches = Batches(corpus(tmp_path), config(mixture=mixture))
    science = set(plain_streams()["science", "en"])
    found = [row[0] in science for row in rows(batches, batches.batch((range(0, 100),)))]
    assert sum(found) == pytest.approx(75, abs=2)


def test_a_stream_of_one_token_is_left_out(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path, [("web", [("de", 50), ("sw", 1)])]), config())
    assert [(stream.language, stream.num_samples) for stream in batches.streams] == [("de", 7)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"global_batch_size": 500}, "global_batch_size"),
        ({"mixture": {"source_weights": {"web": 1}}}, "science"),
        ({"mixture": {"source_weights": {"web": 1, "science": 1, "books": 1}}}, "books"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Batches(corpus(tmp_path), config(**changes))
    assert "\n" not in str(caught.value)


def order_record(directory: Path, layout: Layout = LAYOUT, **changes: Any) -> OrderRecord:
    return Batches(corpus(directory, layout), config(**changes)).order_record()


def test_the_record_of_the_order_says_all_that_it_depends_on(tmp_path: Path) -> None:
    record = order_record(tmp_path / "tokens-1")
    lengths = {key: len(tokens) for key, tokens in plain_streams().items()}
    assert {(s.source, s.language): s.num_tokens for s in record.streams} == lengths
    assert [s.num_bytes for s in record.streams] == [s.num_tokens for s in record.streams], "a byte a token, as made up"
    assert [sum(phase.weights) for phase in record.phases] == pytest.approx([1])
    assert (record.seed, record.sequence_length, record.tokens) == (0, LENGTH, ("tokens-1",))


def test_an_order_goes_on_as_long_as_it_is_the_same(tmp_path: Path) -> None:
    before = OrderRecord.model_validate_json(order_record(tmp_path / "a").model_dump_json())
    check_same_order(before, order_record(tmp_path / "moved", num_steps=99, global_batch_size=3), next_place=50)


@pytest.mark.parametrize(
    ("layout", "changes", "named", "unnamed"),
    [
        (LAYOUT, {"seed": 7}, "seed (0 before, 7 now)", "web"),
        (LAYOUT, {"sequence_length": 16}, "sequence_length (8 before, 16 now)", "web"),
        ([*LAYOUT, ("web", [("fr", 9)])], {}, "the text of web/fr;", "web/de"),
        (LAYOUT[:-1], {}, "the text of science/en;", "web/de"),
        ([*LAYOUT[:-1], ("science", [("en", 18)])], {}, "the text of science/en;", "web/de"),
        (LAYOUT, {"mixture": {"temperature": 2}}, "the weight of web/de, web/en, web/sw;", "science"),
        ([("web", [(f"l{i}", 9) for i in range(10)])], {}, "web/l2 and 8 more streams;", "web/l5"),
    ],
)
def test_another_order_is_refused_by_what_differs(
    tmp_path: Path, layout: Layout, changes: dict[str, Any], named: str, unnamed: str
) -> None:
    with pytest.raises(UserError, match="repeat or skip samples") as caught:
        check_same_order(order_record(tmp_path / "a"), order_record(tmp_path / "b", layout, **changes), next_place=50)
    assert named in str(caught.value) and unnamed not in str(caught.value)
    assert "mode: weights" in str(caught.value)


FIRST, SECOND = (
    {"budget_tokens": 160, "temperature": 2},
    {"budget_tokens": 400, "source_weights": {"web": 1, "science": 9}},
)


@pytest.mark.parametrize(
    ("before", "now", "next_place", "named"),
    [
        (FIRST, {"phases": [FIRST, SECOND]}, 20, ""),
        ({"phases": [FIRST, SECOND]}, {"phases": [FIRST, {}]}, 20, ""),
        ({"phases": [FIRST, SECOND]}, {"phases": [FIRST, {}]}, 21, "the weight of science/en, web/de, web/en"),
        ({"phases": [FIRST, SECOND]}, FIRST, 25, "the number of phases (2 before, 1 now)"),
        ({"temperature": 2}, {"phases": [FIRST, SECOND]}, 20, ""),
        ({"temperature": 2}, {"phases": [FIRST, SECOND]}, 21, "the length of phase 0 (None before, 20 samples now)"),
        ({"temperature": 2}, {"phases": [{}]}, 0, ""),
        ({"temperature": 2}, {"phases": [{}]}, 1, "the weight of web/de, web/en, web/sw;"),
    ],
)
def test_phases_that_have_not_begun_may_change(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], next_place: int, named: str
) -> None:
    one, other = (
        order_record(tmp_path / str(i), mixture=mixture, num_steps=2) for i, mixture in enumerate((before, now))
    )
    if not named:
        check_same_order(one, other, next_place=next_place)
        return
    with pytest.raises(UserError) as caught:
        check_same_order(one, other, next_place=next_place)
    assert named in str(caught.value)


def test_a_record_from_before_there_were_phases_is_read() -> None:
    old = {
        "seed": 0,
        "sequence_length": 8,
        "streams": [
            {"source": "web", "language": language, "num_tokens": 9, "num_bytes": 9, "weight": weight}
            for language, weight in (("de", 0.75), ("sw", 0.25))
        ],
        "tokens": "tokens-1",
    }
    record = OrderRecord.model_validate_json(json.dumps(old))
    assert [stream.language for stream in record.streams] == ["de", "sw"]
    (phase,) = record.phases
    assert (phase.num_samples, phase.weights) == (None, (0.75, 0.25))
