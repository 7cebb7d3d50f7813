"""How long text takes to go through: by arithmetic, and by a corpus that was made."""

from dataclasses import replace

import pytest

from cluster.machines import Node
from cluster.placement import Placement, place
from configs.data.stages import CleanConfig, DeduplicateConfig
from configs.evaluation import EvaluateConfig
from configs.pools import PoolConfig
from data_prep.manifests import CleanCorpus, CorpusCount, CorpusShard
from pipeline.estimate.basis import Range
from pipeline.estimate.speed import Speed
from pipeline.estimate.stage_time import (
    SECONDS_PER_MEGABYTE,
    Work,
    clean_work,
    evaluate_time,
    mask_work,
    rate_of,
    stage_time,
    tokenize_work,
)
from pipeline.store.artifact import Record, commit
from tests.pipeline.estimate.test_speed import record

MB = 10**6


def cores(number: int, **pool) -> Placement:
    return place(PoolConfig(**pool), [Node("n", number, 0, 2**34)], wandb=None)


def corpus(*, kept: int = 90, held_out: int = 10, size: int = 900, shards: int = 4) -> CleanCorpus:
    counts = [
        CorpusCount(
            source="web",
            language=language,
            num_read=2 * (kept + held_out),
            num_kept=kept,
            num_held_out=held_out,
            dropped={"short": kept + held_out},
            kept_bytes=kept * size,
        )
        for language in ("en", "sw")
    ]
    files = [CorpusShard(path=f"{i}", source="web", num_documents=kept, digests="d") for i in range(shards)]
    return CleanCorpus(shards=tuple(files), held_out=(), counts=tuple(counts), unreadable=())


def cleaned(seconds: float, *, attempts: int = 1, **layout: object) -> Record:
    return record(
        "clean",
        CleanConfig.model_validate({"sources": SOURCES}),
        corpus(),
        seconds=seconds,
        attempts=attempts,
        **layout,
    )


SOURCES = [{"name": "web", "kind": "json_lines", "paths": ["*.jsonl*"]}]


PLAIN = CleanConfig.model_validate({"sources": SOURCES})
FILTERED = CleanConfig.model_validate({"sources": SOURCES, "identify": {}, "filters": {"presets": ["c4"]}})


def test_text_is_known_by_its_files_and_compressed_ones_hold_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"x" * 1000)
    (tmp_path / "b.jsonl.zst").write_bytes(b"x" * 500)
    hub = {"name": "hub", "kind": "hugging_face", "path": "a/b", "revision": "0" * 40}
    work = clean_work(CleanConfig.model_validate({"sources": [*SOURCES, hub]}))
    assert work == Work(1000 + 3 * 500, 1, 1500, ("hub",))


def test_a_corpus_that_is_made_says_how_much_there_is_to_tokenise():
    config = CleanConfig.model_validate({"sources": SOURCES, "shard_bytes": 100})
    assert tokenize_work(corpus(), config) == Work(2 * 90 * 900, 4, 2 * 90 * 900 / 4)


def test_large_files_are_cut_and_those_that_are_read_as_streams_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl.zst"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**30)
    work = clean_work(CleanConfig.model_validate({"sources": SOURCES}))
    assert work == Work(4 * 2**30, 64, 3 * 2**30)


def test_cleaning_takes_its_bytes_over_the_cores_that_have_a_file(tmp_path):
    work = Work(800 * MB, 8, 100 * MB)
    took = stage_time("clean", PLAIN, work, cores(16), tmp_path).seconds
    rate = MB / SECONDS_PER_MEGABYTE["clean"][""]
    assert took == Range(pytest.approx(800 * MB / 8 / rate / 2), pytest.approx(800 * MB / 8 / rate * 2))
    fewer = stage_time("clean", PLAIN, work, cores(4, cpus_per_task=2), tmp_path).seconds
    assert fewer is not None and took is not None and fewer.low == pytest.approx(4 * took.low)


def test_the_largest_file_is_the_least_time(tmp_path):
    took = stage_time("clean", PLAIN, Work(800 * MB, 8, 500 * MB), cores(64), tmp_path).seconds
    assert took is not None and took.high == pytest.approx(500 * SECONDS_PER_MEGABYTE["clean"][""] * 2)


def test_what_was_cleaned_before_says_how_fast(tmp_path):
    done = cleaned(10.0, num_tasks=2)
    # as many bytes a document as those that were kept, twice as many documents as were kept or held out
    assert rate_of(done) == pytest.approx(2 * 200 * 900 / 10)
    (tmp_path / f"clean-{'0' * 12}").mkdir()
    commit(tmp_path / f"clean-{'0' * 12}", done)
    found = stage_time("clean", PLAIN, Work(72_000, 1, 72_000), cores(4), tmp_path)
    assert found.seconds == Range(pytest.approx(2.0), pytest.approx(2.0))
    assert f"measured in clean-{'0' * 12}" in found.source


def test_what_was_cleaned_with_other_parts_says_nothing(tmp_path):
    (tmp_path / f"clean-{'0' * 12}").mkdir()
    commit(tmp_path / f"clean-{'0' * 12}", cleaned(10.0, num_tasks=2))
    work = Work(72_000, 1, 72_000)
    found = stage_time("clean", FILTERED, work, cores(4), tmp_path)
    assert found.source.endswith("assumed: 4.7 MB/s a core, half of that to twice")
    scores = [{"name": name, "kind": "field", "field": name} for name in ("one", "two")]
    scored = PLAIN.model_copy(
        update={"scores": CleanConfig.model_validate({"sources": SOURCES, "scores": scores}).scores}
    )
    assert "assumed: 4.3 MB/s" in stage_time("clean", scored, work, cores(4), tmp_path).source


def test_a_mask_that_keeps_one_of_several_reads_earlier_sources_too():
    own, other = Work(100.0, 2, 60.0), Work(900.0, 5, 400.0, ("hub",))
    assert mask_work(own, [other], DeduplicateConfig()) == own
    near = DeduplicateConfig.model_validate({"near": {}})
    assert mask_work(own, [other], near) == Work(1000.0, 7, 400.0, ("hub",))


def test_a_record_that_does_not_say_how_many_cores_there_were_says_nothing():
    assert rate_of(cleaned(10.0)) is None
    assert rate_of(cleaned(10.0, num_tasks=2, attempts=2)) is None
    other = cleaned(10.0, num_tasks=2).model_copy(update={"manifest": {"of": "another version"}})
    assert rate_of(other) is None


def test_more_cores_than_files_were_not_busy():
    assert rate_of(cleaned(10.0, num_tasks=64)) == rate_of(cleaned(10.0, num_tasks=4))


def test_text_of_unknown_size_takes_an_unknown_time(tmp_path):
    found = stage_time("clean", PLAIN, Work(0, 1, 0, ("hub",)), cores(4), tmp_path)
    assert found.seconds is None and "the size of hub" in found.source


def test_scoring_takes_a_third_of_what_training_on_its_tokens_would():
    speed = Speed(Range(1000.0, 2000.0), "measured")
    config = EvaluateConfig(documents_per_stream=5, tasks=())
    one = replace(cores(1), device="cuda")
    found = evaluate_time(config, [corpus()], None, speed=speed, placement=one).seconds
    # 5 of 10 documents of two languages, of 900 bytes, 4 bytes a token
    assert found == Range(pytest.approx(2 * 5 * 225 / 6000), pytest.approx(2 * 5 * 225 / 3000))
    everything = EvaluateConfig(documents_per_stream=None, tasks=())
    twice = evaluate_time(everything, [corpus()], None, speed=speed, placement=one).seconds
    assert twice is not None and found is not None and twice.low == pytest.approx(2 * found.low)
    asked = EvaluateConfig(documents_per_stream=5)
    longer = evaluate_time(asked, [corpus()], None, speed=speed, placement=one).seconds
    assert longer is not None and longer.low > found.low
    unknown = evaluate_time(config, [corpus()], None, speed=Speed(None, "not known"), placement=one)
    assert unknown.seconds is None


def test_ranks_without_an_item_of_work_score_nothing():
    config = EvaluateConfig(documents_per_stream=5, tasks=())
    eight = replace(cores(8), device="cuda", num_ranks=8)
    found = evaluate_time(config, [corpus()], None, speed=Speed(Range(800.0, 800.0), ""), placement=eight).seconds
    assert found is not None and found.low == pytest.approx(2 * 5 * 225 / 300)  # ten texts are one item
