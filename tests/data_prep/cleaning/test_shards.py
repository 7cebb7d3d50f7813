"""Shards are of about one size whatever the pieces are, and of one language where that costs nothing."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import shards
from data_prep.cleaning.duplicates import Pieces
from data_prep.cleaning.shards import plan_shards

MIB = 2**20


def pieces_of(groups: list[tuple[int, bool, int]]) -> Pieces:
    """Make groups, each with its source, whether it is held out and its language, in order."""
    table = np.array(sorted(groups), dtype=np.int64).reshape(-1, 3)
    zeros = np.zeros(len(table), dtype=np.int64)
    return Pieces(
        names=["p"],
        sources=["a", "b"],
        languages=[f"l{i}" for i in range(9)],
        group_source=table[:, 0],
        group_is_held_out=table[:, 1].astype(bool),
        group_language=table[:, 2],
        group_piece=zeros,
        group_row=zeros,
        group_documents=zeros,
        group_bytes=zeros,
        group_blocks=np.zeros(len(table) + 1, dtype=np.int64),
        blocks=np.zeros((0, 3), dtype=np.int64),
    )


GROUP = st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 8))


@given(st.lists(st.tuples(GROUP, st.integers(0, 3000)), max_size=60), st.integers(1, 4000))
@settings(max_examples=300, deadline=None)
def test_every_group_with_text_is_in_one_shard(groups: list[tuple[tuple[int, bool, int], int]], size: int) -> None:
    pieces = pieces_of([group for group, _ in groups])
    kept_bytes = np.array([num_bytes for _, num_bytes in groups], dtype=np.int64)
    planned = list(plan_shards(pieces, kept_bytes, size))
    seen = [place for _, _, first, stop in planned for place in range(first, stop)]
    assert sorted(seen) == seen and len(set(seen)) == len(seen)
    assert {place for place in range(len(groups)) if kept_bytes[place]} <= set(seen)
    for source, is_held_out, first, stop in planned:
        own = slice(first, stop)
        assert kept_bytes[own].sum() > 0
        assert {pieces.sources[i] for i in pieces.group_source[own]} == {source}
        assert set(pieces.group_is_held_out[own].tolist()) == {is_held_out}
        assert kept_bytes[own].sum() <= 2 * size + kept_bytes[own].max()


def test_a_language_that_fills_shards_has_its_own_and_small_ones_share() -> None:
    languages = [0] * 40 + [1, 2] + [3] * 40 + [4]
    pieces = pieces_of([(0, False, language) for language in languages])
    planned = list(plan_shards(pieces, np.full(len(languages), 8 * MIB), 16 * MIB))
    of_shard = [set(pieces.group_language[first:stop].tolist()) for _, _, first, stop in planned]
    assert of_shard == [{0}] * 20 + [{1, 2}] + [{3}] * 20 + [{4}]


def test_a_small_source_still_has_shards_for_many_workers() -> None:
    pieces = pieces_of([(0, False, 0)] * 128)
    planned = list(plan_shards(pieces, np.full(128, 4 * MIB), 256 * MIB))
    assert len(planned) == shards.FEWEST_SHARDS
    assert [first for _, _, first, _ in planned] == [4 * i for i in range(32)]
    assert all(stop == first for (_, _, _, stop), (_, _, first, _) in pairwise(planned))
