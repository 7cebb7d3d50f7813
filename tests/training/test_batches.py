"""Which tokens each rank reads in each step."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import Artifact, UserError
from configs.training import TrainConfig
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from data_prep.shards import dtype_for, write_shard
from tests.training.ranks import tiny_config, tiny_corpus
from training.batches import Batches

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


def rows(batches: Batches, step: int, *, world_size: int = 1, size: int = 100) -> list[tuple[int, ...]]:
    """The tokens of each row that bears loss, with those that only give context, over all ranks."""
    found = []
    for rank in range(world_size):
        for batch in batches.micro_batches(step, rank=rank, world_size=world_size, size=size):
            assert len(batch.tokens) <= size
            pairs = zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)
            found += [tuple(row[: length + 1]) for row, length in pairs if length]
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_share_a_step_without_loss_or_repeat(tmp_path: Path, world_size: int, size: int) -> None:
    for batch_size in (5, 3, 8):
        batches = Batches(corpus(tmp_path), config(global_batch_size=batch_size))
        for step in range(6):
            whole = rows(batches, step)
            assert len(whole) == batch_size
            assert Counter(rows(batches, step, world_size=world_size, size=size)) == Counter(whole)
            assert batches.num_targets(step) == sum(len(row) - 1 for row in whole)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_has_equally_many_micro_batches(tmp_path: Path, world_size: int, size: int) -> None:
    batches = Batches(corpus(tmp_path), config())
    counts = {
        len(list(batches.micro_batches(0, rank=rank, world_size=world_size, size=size))) for rank in range(world_size)
    }
    assert counts == {math.ceil(math.ceil(5 / world_size) / size)}


def test_rows_are_cut_from_the_streams_across_shards(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path), config())
    expected = {
        tuple(tokens[start : start + LENGTH + 1])
        for tokens in plain_streams().values()
        for start in range(0, len(tokens) - 1, LENGTH)
    }
    seen = {row for step in range(40) for row in rows(batches, step)}
    assert seen == expected
    assert any(set(np.diff(row)) - {1} for row in seen), "a row must cross shards"


@pytest.mark.parametrize("layout", [LAYOUT, [("web", [("de", 33), ("en", 4)]), ("web", [("en", 29)])]])
def test_in_an_epoch_each_token_but_a_streams_first_is_a_target_once(tmp_path: Path, layout: Layout) -> None:
    """One batch is as long as the corpus; per stream, what is drawn by then is its first epoch."""
    streams = plain_streams(layout)
    num_samples = {key: -(-(len(tokens) - 1) // LENGTH) for key, tokens in streams.items()}
    batches = Batches(corpus(tmp_path, layout), config(global_batch_size=1))
    left, targets = dict(num_samples), Counter[int]()
    pairs = {pair: key for key, tokens in streams.items() for pair in pairwise(tokens)}
    for step in range(20 * sum(num_samples.values())):
        (row,) = rows(batches, step)
        key = pairs[row[0], row[1]]
        if left[key] > 0:
            left[key] -= 1
            targets.update(row[1:])
    assert not any(left.values())
    assert targets == Counter(token for tokens in streams.values() for token in tokens[1:])


def test_padding_bears_no_loss_and_reads_no_other_stream(tmp_path: Path) -> None:
    batches = Batches(corpus(tmp_path), config(global_batch_size=8))
    streams = [set(tokens) for tokens in plain_streams().values()]
    short = 0
    for step in range(6):
        (batch,) = batches.micro_batches(step, rank=0, world_size=1, size=8)
        assert batch.tokens.shape == (8, LENGTH + 1)
        for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True):
            assert any(set(row[: length + 1]) <= stream for stream in streams)
            short += length < LENGTH
    assert short


def test_a_run_extended_half_way_goes_on_as_the_longer_run_would(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    planned, extended = (Batches(made, config(num_steps=steps)) for steps in (10, 15))
    assert [rows(planned, step) for step in range(5)] == [rows(extended, step) for step in range(5)]
    assert [rows(planned, step) for step in range(5, 10)] == [rows(extended, step) for step in range(5, 10)]


def test_half_an_epoch_and_the_next_share_no_row(tmp_path: Path) -> None:
    layout: Layout = [("web", [("de", 100 * LENGTH + 1)]), ("web", [("de", 100 * LENGTH)])]
    batches = Batches(corpus(tmp_path, layout), config(global_batch_size=10))
    first = [row for step in range(10) for row in rows(batches, step)]
    second = [row for step in range(10, 20) for row in rows(batches, step)]
    assert len(set(first) & set(second)) == 0
    assert len(set(first) | set(second)) == 200


def test_order_depends_on_the_seed(tmp_path: Path) -> None:
    made = tiny_corpus(tmp_path)
    one, same, other = (Batches(made, tiny_config(seed=seed)) for seed in (1, 1, 2))
    assert rows(one, 0) == rows(same, 0) != rows(other, 0)


def test_source_weights_steer_what_is_read(tmp_path: Path) -> None:
    mixture = {"source_weights": {"web": 1, "science": 3}}
    batches = Batches(corpus(tmp_path), config(global_batch_size=4, mixture=mixture))
    science = set(plain_streams()["science", "en"])
    found = [row[0] in science for step in range(25) for row in rows(batches, step)]
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
