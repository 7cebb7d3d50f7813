"""Duplicates are decided range by range of digests, and every way to cut the work gives one answer."""

import random
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.data.stages import CleanConfig
from data_prep.cleaning import duplicates, stage
from data_prep.cleaning.duplicates import are_among, choose_num_partitions, slice_of_range
from data_prep.cleaning.held_out import SHARD_DIGEST_ROW, digest_of
from tests.data_prep.corpora import INLINE, clean_config, cleaned, held_out, kept, source, write_lines


@pytest.fixture
def config(tmp_path: Path) -> CleanConfig:
    """Sources with many equal texts, within files, between files, between languages and between sources."""
    chosen = random.Random(5)
    paths = []
    for number in range(6):
        rows = [(chosen.choice(["en", "sw", "fr"]), f"text number {chosen.randrange(150)}") for _ in range(90)]
        paths.append(write_lines(tmp_path / f"{number}.jsonl", rows))
    return clean_config(source("web", *paths[:4]), source("books", *paths[4:]), held_out={"share": 0.2})


def test_what_stays_is_each_text_once_and_the_first_of_it(tmp_path: Path, config: CleanConfig) -> None:
    corpus = cleaned(tmp_path / "out", config)
    read = [row for name in ("web", "books") for row in _rows(config, name)]
    firsts: dict[str, str] = {}
    for identifier, text in read:
        firsts.setdefault(text, identifier)
    found = {document.text: document.id for document in [*kept(corpus), *held_out(corpus)]}
    assert len(found) == len(kept(corpus)) + len(held_out(corpus))
    assert found == firsts
    assert {d.text for d in held_out(corpus)} == {
        text for text in firsts if int.from_bytes(digest_of(text)[:8]) / 2**64 < 0.2
    }
    for count in corpus.manifest.counts:
        assert count.num_read == count.num_kept + count.num_held_out + sum(count.dropped.values())


def _rows(config: CleanConfig, name: str) -> list[tuple[str, str]]:
    import json

    (own,) = (one for one in config.sources if one.name == name)
    assert own.kind == "json_lines"
    return [
        (f"{name}/{path}:{number}", json.loads(line)["text"])
        for path in own.paths
        for number, line in enumerate(Path(path).read_text().splitlines(), 1)
    ]


@pytest.mark.parametrize(("partition_documents", "part_bytes"), [(3, 300), (100, 300), (3, 4000)])
def test_the_grain_of_the_work_changes_nothing(
    tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch, partition_documents: int, part_bytes: int
) -> None:
    calm = cleaned(tmp_path / "calm", config)
    monkeypatch.setattr(duplicates, "PARTITION_DOCUMENTS", partition_documents)
    monkeypatch.setattr(stage, "MOST_PART_BYTES", part_bytes)
    out = tmp_path / "out"
    manifest = stage.clean(config, out=out, executor=INLINE)
    corpus = type(calm)(out, manifest)
    assert (kept(corpus), held_out(corpus)) == (kept(calm), held_out(calm))
    assert manifest.counts == calm.manifest.counts


def test_digests_beside_a_shard_are_those_of_its_documents(tmp_path: Path, config: CleanConfig) -> None:
    corpus = cleaned(tmp_path / "out", config.model_copy(update={"shard_bytes": 400}))
    assert len(corpus.manifest.shards) > 3
    for shard in (*corpus.manifest.shards, *corpus.manifest.held_out):
        table = np.load(corpus.dir / shard.digests)
        one = type(corpus)(corpus.dir, corpus.manifest.model_copy(update={"shards": (shard,)}))
        expected = [int.from_bytes(digest_of(document.text)) for document in kept(one)]
        found = [(int(row["high"]) << 64) + int(row["low"]) for row in table]
        assert found == sorted(expected)
        assert [expected[row] for row in table["row"]] == found


def test_ranges_part_all_digests() -> None:
    table = np.zeros(5, dtype=SHARD_DIGEST_ROW)
    table["high"] = [0, 2**62 - 1, 2**62, 2**63, 2**64 - 1]
    found = [slice_of_range(table, number, 4)["high"].tolist() for number in range(4)]
    assert found == [[0, 2**62 - 1], [2**62], [2**63], [2**64 - 1]]
    assert slice_of_range(table, 0, 1)["high"].tolist() == table["high"].tolist()


def test_partitions_grow_with_the_documents() -> None:
    assert [choose_num_partitions(n << 20) for n in (0, 1, 2, 8, 9, 160)] == [1, 8, 8, 8, 16, 256]
    assert [choose_num_partitions(n) for n in (1, 1 << 15, (1 << 15) + 1, 200_000)] == [1, 1, 2, 8]


def digest_table(pairs: Iterable[tuple[int, int]]) -> Any:
    ordered = sorted(pairs)
    table = np.empty(len(ordered), dtype=SHARD_DIGEST_ROW)
    table["high"], table["low"] = np.array(ordered, dtype=np.uint64).reshape(-1, 2).T
    table["row"] = np.arange(len(ordered))
    return table


PAIRS = st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 2**63, 2**64 - 1])] * 2), max_size=12)


@given(PAIRS, st.lists(PAIRS, max_size=4))
@settings(max_examples=200, deadline=None)
def test_digests_that_other_tables_have_are_found_also_where_halves_are_equal(
    own: list[tuple[int, int]], others: list[list[tuple[int, int]]]
) -> None:
    rows = digest_table(own)[::-1]
    found = are_among(rows, (digest_table(pairs) for pairs in others))
    assert found.tolist() == [pair in set(chain(*others)) for pair in sorted(own, reverse=True)]


def test_tables_of_others_are_read_one_at_a_time() -> None:
    """A source of a few documents after one of a billion: what is in memory is one table."""
    read: list[Any] = []

    def others() -> Iterator[Any]:
        for number in range(5):
            table = digest_table([(number, 0), (9, 9)])
            read.append(weakref.ref(table))
            yield table
            del table
            assert sum(one() is not None for one in read) <= 1

    assert are_among(digest_table([(3, 0), (7, 7)]), others()).tolist() == [True, False]
