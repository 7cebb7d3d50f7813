"""The model card says what is known of a model, and no more."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.base import Artifact
from configs.data.stages import CleanConfig
from configs.evaluation import ExportConfig
from data_prep.manifests import Certificate, CleanCorpus, CorpusCount, TrainedTokenizer
from eval.manifests import BitsPerByte, Scores
from pipeline.export.card import _weights, hub_language, write_card
from pipeline.store.artifact import Input, Record
from tests.eval.test_manifests import task
from tests.training.ranks import tiny_config
from training.manifests import ExportedModel, TrainedModel

MODEL = TrainedModel.model_construct(
    architecture="llama", num_parameters=1_000, num_steps=6, num_tokens=480, final_loss=2.5, bits_per_byte=1.25
)
EXPORTED = ExportedModel(
    path="model", dtype="bfloat16", step=9, num_parameters=1_000, num_bytes=1, minimum_transformers="4.57"
)
CERTIFICATE = Certificate(
    num_texts=30,
    num_languages=2,
    model_sha256="",
    tokenizer_json_sha256="",
    loaders=("one, with a flag",),
    num_changed=3,
)
TOKENIZER = TrainedTokenizer(vocab_size=320, eos_id=1, pad_id=2, sample_bytes={}, certificate=CERTIFICATE)
SCORES = Scores(
    step=6,
    precision="float32",
    bits_per_byte={"sw": BitsPerByte(num_documents=7, num_bytes=100, bits_per_byte=1.5, low=1.4, high=1.6)},
    bits_per_byte_by_stream={},
    bits_per_byte_by_domain={},
    tasks=(task("continuation", "sw", value=0.75),),
    lm_eval_version="0",
)


def record(stage: str, config: Any, *, manifest: Any = None, **inputs: str) -> Record:
    return Record(
        step=f"my {stage}",
        stage=stage,
        version=1,
        fingerprint="f" * 64,
        config=config,
        observed=None,
        inputs={slot: Input(artifact=name, fingerprint="f" * 64) for slot, name in inputs.items()},
        manifest=manifest or {},
        files={},
        started=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=1,
        attempts=1,
        placement={},
        code="c" * 40,
        packages={},
        host="host",
    )


def count(source: str, language: str, num_kept: int) -> CorpusCount:
    return CorpusCount(
        source=source,
        language=language,
        num_read=num_kept,
        num_kept=num_kept,
        num_held_out=0,
        dropped={},
        kept_bytes=10 * num_kept,
    )


def records(tmp_path: Path, **training: Any) -> dict[str, Record]:
    sources = [
        {"name": "web", "kind": "json_lines", "paths": ["a"], "license": "cc-by-4.0"},
        {"name": "notes", "kind": "plain_text", "paths": ["b"]},
    ]
    corpus = CleanCorpus(
        shards=(),
        held_out=(),
        counts=(count("notes", "und", 3), count("web", "en", 0), count("web", "sw_Latn", 1200)),
        unreadable=(),
    )
    clean, config = CleanConfig.model_validate({"sources": sources}), tiny_config(**training)
    return {
        "clean-1": record("clean", clean.model_dump(mode="json"), manifest=corpus.model_dump(mode="json")),
        "clean-2": record("clean", {"sources": [{"name": "of the tokenizer", "license": "secret"}]}),
        "train_tokenizer-1": record("train_tokenizer", {}, corpus="clean-2"),
        "tokenize-1": record("tokenize", {}, corpus="clean-1", tokenizer="train_tokenizer-1"),
        tmp_path.name: record(
            "train", config.model_dump(mode="json"), tokens="tokenize-1", tokenizer="train_tokenizer-1"
        ),
    }


def card(tmp_path: Path, *, scores: Scores | None = None, gone: tuple[str, ...] = (), **training: Any) -> str:
    known = {name: one for name, one in records(tmp_path, **training).items() if name not in gone}
    model = Artifact(tmp_path, MODEL)
    config = ExportConfig(license="apache-2.0" if scores else None)
    return write_card(EXPORTED, config, records=known, model=model, tokenizer=TOKENIZER, scores=scores)


def front_matter(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    assert front_matter(card(tmp_path)) == {
        "language": ["sw"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llama", "concord"],
    }
    scored = front_matter(card(tmp_path, scores=SCORES))
    assert scored["license"] == "apache-2.0"
    (result,) = scored["model-index"][0]["results"]
    assert [(one["type"], one["value"]) for one in result["metrics"]] == [("bits_per_byte", 1.5), ("accuracy", 0.75)]


def test_data_licences_settings_scores_and_flags_are_told(tmp_path: Path) -> None:
    text = card(tmp_path, scores=SCORES)
    assert "| web | cc-by-4.0 | sw_Latn | 1,200 | 12,000 |" in text
    assert "| notes | not stated | und | 3 | 30 |" in text
    assert "| optimizer.learning_rate | `0.01` |" in text
    assert "transformers 4.57 or newer" in text
    assert "| sw | 1.5000 | 1.400 to 1.600 | 7 |" in text
    assert "| continuation | 1 | 75.0% | 10.0% to 70.0% | 25.0% |" in text
    assert "- one, with a flag" in text
    assert "secret" not in text, "a corpus that only the tokenizer was trained on"
    assert "The weights are those after step 9." in text
    assert "began with" not in text and "## Scores" not in card(tmp_path)


def test_weights_that_training_began_with_are_named_without_their_place(tmp_path: Path) -> None:
    text = card(tmp_path, init_from={"path": "/home/me/llama"})
    assert "began with the weights `llama`" in text and "/home/me" not in text


def test_records_that_are_gone_are_told(tmp_path: Path) -> None:
    text = card(tmp_path, gone=("clean-1",))
    assert "no longer in the store" in text and "language" not in front_matter(text)


@pytest.mark.parametrize(
    ("tag", "code"), [("sw", "sw"), ("swh_Latn", "swh"), ("zh-Hant", "zh"), ("und", None), ("en2", None), ("x", None)]
)
def test_a_language_tag_is_the_code_that_the_hub_knows(tag: str, code: str | None) -> None:
    assert hub_language(tag) == code


def test_weights_of_the_best_checkpoint_say_their_own_loss() -> None:
    best = {"best_checkpoint": "checkpoints/step-00000004", "best_validation_loss": 4.214, "validation_loss": 8.754}
    model = MODEL.model_copy(update=best | {"validation_bits_per_byte": 3.0})
    for step, says in ((4, "after step 4, where held-out text was at 4.214 nats a token, the lowest."), (6, "step 6.")):
        text = _weights(EXPORTED.model_copy(update={"step": step}), ExportConfig(), model)
        assert text.endswith(says), text


def test_a_task_that_needs_no_knowledge_is_told_and_is_no_metric(tmp_path: Path) -> None:
    control = task("continuation", "sw", value=0.6, low=0.55, high=0.65)
    text = card(tmp_path, scores=SCORES.model_copy(update={"untrained": (control,)}))
    assert "continuation: an untrained network does not score chance in it" in text
    (result,) = front_matter(text)["model-index"][0]["results"]
    assert [one["type"] for one in result["metrics"]] == ["bits_per_byte"]


def test_a_task_is_a_metric_only_if_an_untrained_network_was_asked_or_it_is_sound_by_construction(
    tmp_path: Path,
) -> None:
    asked = task("quiz", value=0.6, low=0.5, high=0.7)
    less = task("pairs", value=0.3, chance=0.5, metric="share", higher_is_better=False)
    tasks = (*SCORES.tasks, asked, task("program", value=0.9), less)
    untrained = (
        task("quiz", value=0.25),
        less.model_copy(update={"value": 0.5}),
    )
    text = card(tmp_path, scores=SCORES.model_copy(update={"tasks": tasks, "untrained": untrained}))
    (result,) = front_matter(text)["model-index"][0]["results"]
    assert [(one["type"], one["name"]) for one in result["metrics"]] == [
        ("bits_per_byte", "bits per byte"),
        ("accuracy", "continuation"),
        ("accuracy", "quiz"),
        ("share", "pairs (less is better)"),
    ]
    assert "Not asked of an untrained network, so no result of the front matter: program." in text
    assert "| pairs (less is better) | 1 | 30.0% |" in text
