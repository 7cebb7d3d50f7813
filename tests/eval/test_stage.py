"""Scores and exports of a model that was really trained, with a tokenizer that was really learned."""

import json
import math
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from configs.base import Artifact, ConfigError, UserError
from configs.data.stages import TokenizeConfig, TrainTokenizerConfig
from configs.evaluation import EvaluateConfig, ExportConfig, MultipleChoiceConfig
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.masks.reading import read_held_out
from data_prep.tokenizer.sentencepiece_model import EOS_ID, load_sentencepiece
from data_prep.tokenizer.stage import MODEL, train_tokenizer
from data_prep.tokens.stage import tokenize
from eval.manifests import Scores
from eval.stage import check_lm_eval, evaluate
from eval.word_order import make_questions
from pipeline.prepare import check_stages, prepare
from pipeline.recipe import read_recipe
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, source, write_lines
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from training.checkpoint.load_model import load_model
from training.export import export_model
from training.loop.trainer import train_rank
from training.manifests import TrainedModel

LANGUAGES = ("en", "sq", "zh", "th", "ar")
CHOICE = MultipleChoiceConfig(questions_per_language=2, num_choices=3)
CONTEXT = 48
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Made:
    """The artifacts that the stages under test take."""

    corpus: Artifact[CleanCorpus]
    tokenizer: Artifact[TrainedTokenizer]
    model: Artifact[TrainedModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    path = write_lines(root / "eld.jsonl", [row for row in eld_sentences(60) if row[0] in LANGUAGES])
    corpus = cleaned(root / "corpus", clean_config(source("eld", path), held_out={"share": 0.08}))
    settings = TrainTokenizerConfig(vocab_size=1200, character_coverage=0.98)
    tokenizer = Artifact(
        root / "tokenizer", train_tokenizer(settings, corpus=(corpus,), out=root / "tokenizer", executor=INLINE)
    )
    tokens = tokenize(TokenizeConfig(), corpus=corpus, tokenizer=tokenizer, out=root / "tokens", executor=INLINE)
    job = tiny_job(root / "job", tiny_config(sequence_length=CONTEXT), world_size=1, zero_stage=1)
    job = replace(job, tokens=Artifact(root / "tokens", tokens), tokenizer=tokenizer)
    (trained,) = run_ranks(train_rank, 1, job)
    return Made(corpus, tokenizer, Artifact(job.out, trained))


def run_evaluate(made: Made, out: Path, **changes: Any) -> Scores:
    config = EvaluateConfig.model_validate({"multiple_choice": None} | changes)
    return evaluate(config, model=made.model, tokenizer=made.tokenizer, corpus=(made.corpus,), out=out, executor=INLINE)


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["task"] == task]


@torch.inference_mode()
def nats_of(model: Any, ids: list[int], *, first: int) -> float:
    """Return the negative log-likelihood of the ids from `first` on, given those before."""
    losses = torch.log_softmax(model(input_ids=torch.tensor([ids[:-1]])).logits[0].double(), -1)
    return -sum(float(losses[i - 1, ids[i]]) for i in range(first, len(ids)))


def test_bits_per_byte_equals_a_direct_computation(made: Made, tmp_path: Path) -> None:
    scores = run_evaluate(made, tmp_path)
    documents = smallest_digests(read_held_out(made.corpus), None)
    rows = samples(tmp_path, "bits_per_byte")
    assert [(row["document"], row["language"]) for row in rows] == [(d.id, d.language) for d in documents]
    model = load_model(made.model.dir / made.model.manifest.checkpoint)
    encoder, compared = load_sentencepiece(made.tokenizer.dir / MODEL), 0
    for row, document in zip(rows, documents, strict=True):
        ids = [EOS_ID, *encoder.encode(document.text)]
        if len(ids) <= CONTEXT:
            assert row["nats"] == pytest.approx(nats_of(model, ids, first=1), rel=1e-4)
            compared += 1
    assert compared >= 5
    assert scores.bits_per_byte.keys() == set(LANGUAGES)
    for language, score in scores.bits_per_byte.items():
        own = [row for row in rows if row["language"] == language]
        texts = [d.text for d in documents if d.language == language]
        assert (score.num_documents, score.num_bytes) == (len(own), sum(len(text.encode()) for text in texts))
        bits = sum(row["nats"] for row in own) / math.log(2)
        assert score.bits_per_byte == pytest.approx(bits / score.num_bytes)


def test_lm_eval_answers_every_question_as_a_direct_computation_does(made: Made, tmp_path: Path) -> None:
    scores = run_evaluate(made, tmp_path, multiple_choice=CHOICE.model_dump(), documents_per_stream=2)
    documents = smallest_digests(read_held_out(made.corpus), 2)
    model = load_model(made.model.dir / made.model.manifest.checkpoint)
    encoder, right, num_left_out = load_sentencepiece(made.tokenizer.dir / MODEL), {}, 0
    for question in make_questions(documents, CHOICE):
        context = len(encoder.encode(question.context))
        choices = [encoder.encode(question.context + choice) for choice in question.choices]
        if max(map(len, choices)) - context > CONTEXT:  # a choice would lose its beginning
            num_left_out += 1
            continue
        cut = [(ids[-(CONTEXT + 1) :], len(ids) - context) for ids in choices]
        nats = [nats_of(model, ids, first=len(ids) - length) for ids, length in cut]
        right[question.document] = nats.index(min(nats)) == question.answer
    rows, task = samples(tmp_path, "word_order"), scores.multiple_choice
    assert {row["document"]: row["right"] for row in rows} == right
    assert task is not None
    assert (task.num_left_out, len(right)) == (num_left_out, len(rows))
    assert num_left_out
    assert (task.total.num_questions, task.total.num_right) == (len(rows), sum(row["right"] for row in rows))
    assert task.chance == pytest.approx(1 / 3)
    assert task.lm_eval_version
    for language, accuracy in task.by_language.items():
        assert accuracy.num_right == sum(row["right"] for row in rows if row["language"] == language)
    assert len(samples(tmp_path, "bits_per_byte")) == 2 * len(LANGUAGES)


def test_finished_scores_are_not_computed_again(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("eval.stage._write_samples", None)  # it ends when all is scored and nothing is written yet
        with pytest.raises(TypeError):
            run_evaluate(made, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("eval.stage.score_texts", None)
        scores = run_evaluate(made, tmp_path)
    assert scores == run_evaluate(made, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} <= {"again", "samples.jsonl", "word_order.jsonl"}


def test_no_held_out_document_is_one_line(made: Made, tmp_path: Path) -> None:
    manifest = made.corpus.manifest.model_copy(update={"held_out": ()})
    empty = replace(made, corpus=Artifact(tmp_path, manifest))
    with pytest.raises(UserError, match="no document is held out"):
        run_evaluate(empty, tmp_path / "out")


OUTSIDE = """
import importlib.util, json, sys
repository, text, *dtypes = sys.argv[1:]
sys.path = [path for path in sys.path if path != repository]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
assert all(importlib.util.find_spec(name) is None for name in ("configs", "training", "data_prep"))
import numpy, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for name in dtypes:
    model = AutoModelForCausalLM.from_pretrained(f"{name}/model", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(f"{name}/model")
    ids = tokenizer(text)["input_ids"]
    numpy.save(f"{name}.npy", model(torch.tensor([ids])).logits[0].float().detach().numpy())
    made = len(model.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)[0])
    print(json.dumps({"ids": ids, "dtype": str(model.dtype), "eos": tokenizer.eos_token_id, "made": made}))
"""


def test_exports_load_without_our_code(made: Made, tmp_path: Path) -> None:
    tolerances: dict[Any, float] = {"float32": 1e-5, "bfloat16": 0.03}
    text = "A text: çà et là 一二三 123"
    for dtype in tolerances:
        out = tmp_path / dtype
        result = export_model(
            ExportConfig(dtype=dtype), model=made.model, tokenizer=made.tokenizer, out=out, executor=INLINE
        )
        files = list((out / result.path).iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o644}
        assert result.num_bytes == sum(file.stat().st_size for file in files)
    command = [sys.executable, "-I", "-c", OUTSIDE, str(ROOT), text, *tolerances]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    ids = load_sentencepiece(made.tokenizer.dir / MODEL).encode(text)
    with torch.inference_mode():
        model = load_model(made.model.dir / made.model.manifest.checkpoint)
        logits = model(torch.tensor([ids])).logits[0].numpy()
    for line, (dtype, tolerance) in zip(done.stdout.splitlines()[-2:], tolerances.items(), strict=True):
        said = json.loads(line)
        assert (said["ids"], said["dtype"], said["eos"]) == (ids, f"torch.{dtype}", EOS_ID)
        assert said["made"] > len(ids)
        np.testing.assert_allclose(np.load(tmp_path / f"{dtype}.npy"), logits, atol=tolerance, rtol=tolerance)
        assert np.abs(logits).max() > 3 * tolerance


def test_an_export_begun_before_is_made_anew(made: Made, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "leftover.safetensors").write_bytes(b"old")
    export_model(ExportConfig(), model=made.model, tokenizer=made.tokenizer, out=tmp_path, executor=INLINE)
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert "leftover.safetensors" not in names
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token_id == EOS_ID


def test_want_of_lm_eval_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.stage.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"scored by lm-eval, which is not installed here; pip install"):
        check_lm_eval(EvaluateConfig(multiple_choice=CHOICE))
    check_lm_eval(EvaluateConfig(multiple_choice=None))
    with pytest.raises(ConfigError, match=r"smoke\.yaml:\d+: the word-order task"):
        check_stages(prepare(read_recipe(Path("smoke"), (f"store={tmp_path}",))))
    check_stages(prepare(read_recipe(Path("smoke"), (f"store={tmp_path}", "outputs=[model]"))))  # makes no scores
