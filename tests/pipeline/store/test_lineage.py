import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import JsonValue

from configs.base import UserError
from pipeline.store.artifact import RECORD, Input, Record, commit
from pipeline.store.lineage import ancestry, duration, observed_lines, render_lineage, shorten_digests

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "fedcba9876543210" * 4


def _put(store: Path, name: str, *sources: str, config: dict[str, JsonValue] | None = None, seen: JsonValue = None):
    path = store / name
    path.mkdir(parents=True)
    record = Record(
        step=f"my-{name}",
        stage=name,
        version=3,
        fingerprint=DIGEST,
        config=config or {},
        observed=seen,
        inputs={f"slot-{source}": Input(artifact=source, fingerprint=DIGEST) for source in sources},
        manifest={},
        files={},
        started=datetime(2026, 11, 14, 9, 31, tzinfo=UTC),
        seconds=72.4,
        attempts=1,
        placement={},
        code=f"{COMMIT}+changes",
        packages={},
        host="node",
    )
    commit(path, record)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    _put(store, "clean", seen={"news": {"a.jsonl": DIGEST}})
    _put(store, "tokenizer", "clean", config={"vocab_size": 8192, "nested": {"deep": 77}})
    _put(store, "tokens", "clean", "tokenizer")
    _put(store, "train", "tokens", "tokenizer")
    _put(store, "other", "clean")
    return store


def test_ancestry_lists_inputs_before_what_was_made_from_them_each_once(store: Path):
    found = ancestry(store / "train")
    assert list(found) == ["clean", "tokenizer", "tokens", "train"]
    assert found["tokens"].step == "my-tokens"


def test_ancestry_works_from_inside_the_artifact(store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(store / "tokens")
    assert list(ancestry(Path("."))) == ["clean", "tokenizer", "tokens"]


def test_ancestry_leaves_out_what_was_deleted_and_what_only_it_led_to(store: Path):
    shutil.rmtree(store / "tokens")
    assert list(ancestry(store / "train")) == ["clean", "tokenizer", "train"]
    shutil.rmtree(store / "tokenizer")
    assert list(ancestry(store / "train")) == ["train"]


def test_ancestry_leaves_out_an_unfinished_ancestor(store: Path):
    (store / "clean" / RECORD).unlink()
    assert list(ancestry(store / "train")) == ["tokenizer", "tokens", "train"]


def test_ancestry_ends_on_records_edited_into_a_circle(tmp_path: Path):
    _put(tmp_path, "a", "b")
    _put(tmp_path, "b", "a")
    assert list(ancestry(tmp_path / "a")) == ["b", "a"]


@pytest.mark.parametrize("name", ["nothing", "unfinished"])
def test_ancestry_of_what_is_not_an_artifact_is_a_sentence(tmp_path: Path, name: str):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UserError, match=f"{name} is not a finished artifact"):
        ancestry(tmp_path / name)


def test_ancestry_with_a_broken_record_is_a_sentence(store: Path):
    (store / "clean" / RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="clean"):
        ancestry(store / "train")


def test_render_lineage_describes_every_artifact_once(store: Path):
    text = render_lineage(store / "train")
    lines = text.splitlines()
    assert lines[0] == "train"
    for name in ("train", "tokens", "tokenizer", "clean"):
        assert sum(f"step my-{name} · stage {name}, version 3" in line for line in lines) == 1
    assert lines[1].endswith("2026-11-14 09:31 UTC · 1 min 12 s · code 0123456789ab+changes")
    assert sum("clean (described above)" in line for line in lines) == 1
    assert "other" not in text


def test_render_lineage_shows_short_settings_and_what_sources_held(store: Path):
    text = render_lineage(store / "train")
    assert "vocab_size 8192" in text
    assert "77" not in text
    assert "source news: a.jsonl fedcba987654" in text


def test_render_lineage_indents_inputs_under_what_was_made_from_them(store: Path):
    lines = render_lineage(store / "tokens").splitlines()
    assert [line for line in lines if "slot-" in line] == [
        "├─ slot-clean: clean",
        "└─ slot-tokenizer: tokenizer",
        "   └─ slot-clean: clean (described above)",
    ]


def test_render_lineage_names_a_deleted_ancestor(store: Path):
    shutil.rmtree(store / "tokenizer")
    text = render_lineage(store / "tokens")
    assert "slot-tokenizer: tokenizer (no longer in the store)" in text
    assert "step my-tokenizer" not in text


def test_observed_lines_are_few_and_short():
    lines = observed_lines({f"source{i}": "x" * 500 for i in range(40)})
    assert len(lines) == 13
    assert lines[-1] == "and 28 more"
    assert max(map(len, lines)) < 140
    assert observed_lines(None) == []
    assert observed_lines(["a", 1]) == ["a", "1"]


def test_observed_lines_count_the_files_of_a_source_and_name_the_first():
    (line,) = observed_lines({"news": {f"{i}.txt": DIGEST for i in range(1006)}})
    assert line.startswith("news: 0.txt fedcba987654, 1.txt fedcba987654, ")
    assert line.endswith(", and 1,000 more")


def test_observed_lines_cannot_move_the_cursor_of_a_terminal():
    assert not any(character < " " for line in observed_lines({"a\x1b[2J\n": {"b\x1b": "c\x07"}}) for character in line)


def test_shorten_cuts_digests_and_commits_only():
    assert (
        shorten_digests(f"{DIGEST} {COMMIT}+changes deadbeef 1.2.0")
        == "fedcba987654 0123456789ab+changes deadbeef 1.2.0"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.421, "0.42 s"),
        (9.996, "10.0 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7980, "2 h 13 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_duration_is_in_words(seconds: float, words: str):
    assert duration(seconds) == words
