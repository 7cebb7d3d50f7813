"""The numbers beside the page: whole, without secrets, for other programs."""

import csv
import json
from pathlib import Path

import pytest

from eval.manifests import BaselineScores, BitsPerSentence, CheckpointScores, Scores
from pipeline.report.raw import CHECKPOINT_COLUMNS, SCORE_COLUMNS, write_raw
from tests.eval.test_manifests import scores, task


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def full() -> Scores:
    own = task("quiz_swh_Latn", "sw", family="quiz", suite="early", value=0.123456789012345, digest="ab" * 32)
    own = own.model_copy(update={"num_truncated": 3})
    failed = task("quiz_ru", "ru", value=None, low=None, high=None, failure='no "data",\nthere')
    found = scores(own, failed, sw=1.25)
    other = BaselineScores(precision="float32", bits_per_byte=found.bits_per_byte, tasks=(own,))
    curve = [
        CheckpointScores(step=2, num_tokens=20, bits_per_byte={"sw": 1, "ru": 2}, tasks={"quiz": 0.5}, failure=""),
        CheckpointScores(
            step=3,
            num_tokens=30,
            bits_per_byte={},
            tasks={"quiz": 0.6},
            num_languages={"quiz": 2},
            failed={"quiz_ru": "no data", "lost": "gone"},
            failure="",
        ),
        CheckpointScores(step=4, num_tokens=40, bits_per_byte={}, tasks={}, failure="it is gone"),
    ]
    sentence = BitsPerSentence(num_sentences=9, bits_per_sentence=90.5, low=80.0, high=None)
    more = {"untrained": (own,), "baselines": {"other": other}, "curve": tuple(curve)}
    return found.model_copy(update=more | {"bits_per_sentence": {"sw": sentence}})


def test_every_score_has_a_row_with_all_its_digits(tmp_path: Path):
    write_raw(full(), tmp_path)
    found = rows(tmp_path / "scores.csv")
    assert all(tuple(row) == SCORE_COLUMNS for row in found)
    assert [(row["model"], row["measure"], row["language"]) for row in found] == [
        ("this", "bits_per_byte", "sw"),
        ("this", "bits_per_sentence", "sw"),
        ("this", "quiz", "sw"),
        ("this", "quiz", "ru"),
        ("untrained", "quiz", "sw"),
        ("other", "bits_per_byte", "sw"),
        ("other", "quiz", "sw"),
    ]
    bits, sentence, quiz, failed = found[:4]
    assert bits["value"] == "1.25" and bits["script"] == "Latn" and bits["low"] == ""
    assert sentence["value"] == "90.5" and sentence["num_questions"] == "9"
    assert float(quiz["value"]) == 0.123456789012345 and quiz["digest"] == "ab" * 32 and quiz["suite"] == "early"
    assert [row["num_truncated"] for row in found] == ["", "", "3", "0", "3", "", "3"]
    assert failed["value"] == "" and failed["failure"] == 'no "data",\nthere'


def test_the_curve_has_a_row_for_each_measure_each_failed_task_and_a_checkpoint_that_failed(tmp_path: Path):
    write_raw(full(), tmp_path)
    found = rows(tmp_path / "checkpoints.csv")
    assert all(tuple(row) == CHECKPOINT_COLUMNS for row in found)
    assert [tuple(row.values()) for row in found] == [
        ("2", "20", "bits_per_byte", "1.5", "2", ""),
        ("2", "20", "bits_per_byte/sw", "1.0", "", ""),
        ("2", "20", "bits_per_byte/ru", "2.0", "", ""),
        ("2", "20", "quiz", "0.5", "", ""),
        ("3", "30", "quiz", "0.6", "2", ""),
        ("3", "30", "quiz_ru", "", "", "no data"),
        ("3", "30", "lost", "", "", "gone"),
        ("4", "40", "", "", "", "it is gone"),
    ]


def test_a_checkpoint_in_which_every_task_failed_has_the_rows_of_these_alone(tmp_path: Path):
    lost = CheckpointScores(step=2, num_tokens=20, bits_per_byte={}, tasks={}, failed={"a": "b"}, failure="")
    write_raw(scores(sw=1.0).model_copy(update={"curve": (lost,)}), tmp_path)
    assert [tuple(row.values()) for row in rows(tmp_path / "checkpoints.csv")] == [("2", "20", "a", "", "", "b")]


def test_another_model_that_could_not_be_scored_has_a_row_with_the_failure(tmp_path: Path):
    other = BaselineScores(precision="", bits_per_byte={}, tasks=(), failure="it is gone")
    write_raw(scores(sw=1.0).model_copy(update={"baselines": {"other": other}}), tmp_path)
    found = rows(tmp_path / "scores.csv")[-1]
    assert {key: value for key, value in found.items() if value} == {"model": "other", "failure": "it is gone"}


def test_the_whole_manifest_is_there_as_json(tmp_path: Path):
    named = write_raw(full(), tmp_path)
    assert Scores.model_validate_json((tmp_path / "scores.json").read_bytes()) == full()
    assert sorted(name for name, _ in named) == sorted(path.name for path in tmp_path.iterdir())


def test_scores_of_one_checkpoint_have_no_curve(tmp_path: Path):
    assert [name for name, _ in write_raw(scores(sw=1.0), tmp_path)] == ["scores.csv", "scores.json"]


def test_no_secret_is_written_whatever_signs_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = 'hunter"2",hunter2'
    monkeypatch.setenv("HF_TOKEN", secret)
    write_raw(scores(task("quiz", value=None, failure=f"refused {secret}")), tmp_path)
    assert rows(tmp_path / "scores.csv")[0]["failure"] == "refused [redacted]"
    assert json.loads((tmp_path / "scores.json").read_text())["tasks"][0]["failure"] == "refused [redacted]"
