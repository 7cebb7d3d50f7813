"""Scores and exports of a model that was really trained, with a tokenizer that was really learned."""

import json
import math
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from configs.base import Artifact, ConfigError, InfrastructureError, StartUpError, Unfinished, UserError
from configs.data.stages import TokenizeConfig, TrainTokenizerConfig
from configs.evaluation import EvaluateConfig, ExportConfig
from configs.load import dump_yaml
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.masks.manifest import Mask, MaskCount
from data_prep.masks.reading import read_held_out
from data_prep.tokenizer.sentencepiece_model import EOS_ID, load_sentencepiece
from data_prep.tokenizer.stage import MODEL, train_tokenizer
from data_prep.tokens.stage import tokenize
from eval import scoring
from eval.compare import ONE_ALONE, compare
from eval.families import find_families
from eval.manifests import Scores
from eval.stage import check_held_out, evaluate
from eval.tasks.begun import mark_begun
from eval.tasks.continuation import make_questions
from eval.tasks.observed import check_tasks, observe_tasks
from pipeline.prepare import check_stages, prepare
from pipeline.recipe import read_recipe
from pipeline.run import Terminated
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, source, write_lines
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from training.checkpoint.choice import ChosenWeights
from training.checkpoint.load_model import load_model
from training.export import export_model
from training.loop.trainer import train_rank
from training.manifests import TrainedModel
from training.records import note_deleted, read_known_record

LANGUAGES = ("en", "sq", "zh", "th", "ar")
CONTEXT = 48
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Made:
    """The artifacts that the stages under test take."""

    corpus: Artifact[CleanCorpus]
    tokenizer: Artifact[TrainedTokenizer]
    model: Artifact[TrainedModel]
    tokens: Artifact[TokenizedCorpus]


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
    return Made(corpus, tokenizer, Artifact(job.out, trained), job.tokens)


def run_evaluate(made: Made, out: Path, **changes: Any) -> Scores:
    config = EvaluateConfig.model_validate({"tasks": []} | changes)
    return evaluate(config, model=made.model, tokenizer=made.tokenizer, corpus=(made.corpus,), out=out, executor=INLINE)


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"samples/{task}.jsonl").read_text(encoding="utf-8").splitlines()]


@torch.inference_mode()
def nats_of(model: Any, ids: list[int], *, first: int) -> float:
    """Return the negative log-likelihood of the ids from `first` on, given those before."""
    losses = torch.log_softmax(model(input_ids=torch.tensor([ids[:-1]])).logits[0].double(), -1)
    return -sum(float(losses[i - 1, ids[i]]) for i in range(first, len(ids)))


def test_bits_per_byte_equals_a_direct_computation(made: Made, tmp_path: Path) -> None:
    scores = run_evaluate(made, tmp_path / "out")
    documents = smallest_digests(read_held_out(made.corpus), None)
    rows = samples(tmp_path / "out", "bits_per_byte")
    assert [(row["document"], row["language"]) for row in rows] == [(d.id, d.language) for d in documents]
    model = load_model(made.model.dir / made.model.manifest.checkpoint)
    encoder, compared = load_sentencepiece(made.tokenizer.dir / MODEL), 0
    for row, document in zip(rows, documents, strict=True):
        ids = [EOS_ID, *encoder.encode(document.text), EOS_ID]
        if len(ids) <= CONTEXT + 1:
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
        assert score.low is not None and score.high is not None and score.low < score.bits_per_byte < score.high
    whole = run_evaluate(made, tmp_path / "domains", domains={"text": ["eld"]})
    assert whole.bits_per_byte_by_domain.keys() == {"text"}
    assert whole.bits_per_byte_by_domain["text"].num_documents == len(rows)
    with pytest.raises(UserError, match="no corpus has the source 'other'; there are eld"):
        run_evaluate(made, tmp_path / "none", domains={"none": ["other"]})


def test_continuations_are_scored_by_language_as_a_direct_computation_does(made: Made, tmp_path: Path) -> None:
    scores = run_evaluate(made, tmp_path / "out", tasks=["continuation"], questions_per_task=4)
    questions = make_questions(smallest_digests(read_held_out(made.corpus), 100), per_language=4)
    model = load_model(made.model.dir / made.model.manifest.checkpoint)
    encoder = load_sentencepiece(made.tokenizer.dir / MODEL)
    rows = {row["document"]: row for row in samples(tmp_path / "out", "continuation")}
    assert rows.keys() == {question.document for question in questions}
    for question in questions:
        nats = []
        for choice in question.choices:
            ids = encoder.encode(question.context + choice)
            length = len(ids) - len(encoder.encode(question.context))
            cut = ids[-(CONTEXT + 1) :]
            nats.append(nats_of(model, cut, first=max(1, len(cut) - length)) / len(choice.encode()))
        row = rows[question.document]
        assert (row["value"], row["num_choices"]) == (float(nats.index(min(nats)) == question.answer), 4)
    assert {score.language for score in scores.tasks} == {question.language for question in questions}
    for score in scores.tasks:
        own = [rows[question.document]["value"] for question in questions if question.language == score.language]
        assert (score.task, score.value, score.chance) == ("continuation", sum(own) / len(own), 0.25)
        assert score.num_questions == len(own) and not score.failure
        assert not score.is_decontaminated  # no mask left near copies of held-out documents out
    assert "continuation" in scores.summary() and "chance 25%" in scores.summary()


def write_task(directory: Path, name: str, **settings: Any) -> str:
    """Write a task of lm-eval's, with its questions; return its path."""
    texts = [text for language, text in eld_sentences(60) if language == "en"]
    rows = [
        {
            "id": i,
            "passage": texts[i // 4],
            "question": texts[i],
            "choices": [text[:20] for text in texts[i + 1 : i + 4]],
            "label": i % 3,
        }
        for i in range(24)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(directory / "rows.jsonl")},
            "cache_dir": str(directory / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 3},
    }
    path = directory / f"{name}.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in (task | settings).items()))
    return str(path)


def test_scores_of_a_task_equal_those_of_lm_eval_itself(made: Made, tmp_path: Path, monkeypatch: Any) -> None:
    """The same questions, prompts, choices and versions; of likelihoods the last digits hang on the batch."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    written = {
        "generate": {
            "output_type": "generate_until",
            "doc_to_choice": None,
            "doc_to_target": "{{question}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 4, "do_sample": False},
            "metric_list": [{"metric": "chrf"}],
        },
        "choose": {},
        "roll": rolling,
        "lambada": {
            "output_type": "loglikelihood",
            "doc_to_choice": None,
            "doc_to_target": " {{choices[0]}}",
            "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
        },
        "middle": {"metric_list": [{"metric": "acc", "aggregation": "median", "higher_is_better": True}]},
        "agreement": {"metric_list": [{"metric": "mcc"}]},
    }
    paths = [write_task(tmp_path, name, **settings) for name, settings in written.items()]
    scores = {score.task: score for score in run_evaluate(made, tmp_path / "out", tasks=paths).tasks}
    assert {score.failure for score in scores.values()} == {""}
    model = load_model(made.model.dir / made.model.manifest.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(made.tokenizer.dir / "hugging_face", split_special_tokens=True)
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu"),
        tasks=[*written],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    found = theirs["results"]
    assert scores["choose"].value == found["choose"]["acc,none"] and scores["choose"].version == "1/3"
    assert scores["roll"].value == pytest.approx(found["roll"]["bits_per_byte,none"], rel=1e-5)
    assert scores["generate"].value == pytest.approx(found["generate"]["chrf,none"])
    values = [sample["acc"] for sample in sorted(theirs["samples"]["choose"], key=lambda one: one["doc_id"])]
    assert [row["value"] for row in samples(tmp_path / "out", "choose")] == values
    assert scores["choose"].chance == pytest.approx(1 / 3) and scores["choose"].num_questions == 24
    assert scores["generate"].low is None and scores["roll"].low is not None  # no word in common: no draw has any
    assert scores["lambada"].value == pytest.approx(found["lambada"]["perplexity,none"], rel=1e-4)
    assert scores["lambada"].low is not None and scores["lambada"].high is not None
    assert 1 < scores["lambada"].low < scores["lambada"].value < scores["lambada"].high
    assert not scores["lambada"].higher_is_better and scores["middle"].value == found["middle"]["acc,none"]
    assert scores["agreement"].value == found["agreement"]["mcc,none"]
    assert {scores[name].chance for name in ("lambada", "middle", "agreement")} == {None}
    (first, second), rows = (tmp_path / "out", tmp_path / "out"), samples(tmp_path / "out", "lambada")
    assert rows[0]["aggregation"] == "perplexity" and rows[0]["value"] < 0
    reasons = {one.measure: one.reason for one in compare(first, second)[2]}
    assert "the perplexity of all questions" in reasons["lambada"] and "the median" in reasons["middle"]


def test_a_task_that_fails_is_a_row_and_the_others_are_scored(made: Made, tmp_path: Path) -> None:
    paths = [
        write_task(tmp_path, "good"),
        write_task(tmp_path, "no_field", doc_to_text="{{nothing.of.this}}"),
        write_task(tmp_path, "no_data", dataset_kwargs={"data_files": {"test": str(tmp_path / "gone.jsonl")}}),
        write_task(tmp_path, "no_metric", metric_list=[]),
    ]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for name, labels in (("no_choice", (1, 3, -1)), ("no_first_choice", (3, 1, 1))):
        lines = [json.dumps(row | {"label": labels[number % 3]}) for number, row in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        where = {"data_files": {"test": str(tmp_path / f"{name}.jsonl")}, "cache_dir": str(tmp_path / "cache")}
        paths.append(write_task(tmp_path, name, dataset_kwargs=where))
    paths += [
        write_task(tmp_path, "no_such_metric", metric_list=[{"metric": "accc"}]),
        write_task(tmp_path, "no_path", dataset_path=None),
        write_task(tmp_path, "no_syntax", doc_to_text="{{question"),
        write_task(tmp_path, "nothing", metric_list=[{"metric": "bypass"}], output_type="generate_until"),
    ]
    scores = run_evaluate(made, tmp_path / "out", tasks=paths)
    failures = {score.task: score.failure for score in scores.tasks}
    assert failures["good"] == "" and all(failures[name] for name in ("no_field", "no_data", "no_metric"))
    assert failures["no_field"] == (
        "doc_to_text '{{nothing.of.this}}': 'nothing' is undefined; name a field that the questions have"
    )
    assert failures["no_choice"].startswith(
        "the right answer of 16 of 24 questions is none of their choices, such as '3' of 3; doc_to_target"
    )
    assert failures["no_first_choice"].startswith("the right answer of the first question is none of its choices")
    assert failures["no_such_metric"] == "lm-eval has no metric 'accc'; did you mean 'acc'?"
    assert "has no dataset_path" in failures["no_path"] and "doc_to_text '{{question'" in failures["no_syntax"]
    assert "9 tasks failed: no_field, no_data, no_metric ..." in scores.summary()
    assert [score.value is None for score in scores.tasks] == [False, *[True] * 9]


def test_questions_on_one_passage_are_no_independent_observations(made: Made, tmp_path: Path) -> None:
    suite = tmp_path / "own.yaml"
    write_task(tmp_path, "rows")
    entry = {
        "task": "rows",
        "folder": ".",
        "kind": "multiple_choice",
        "formulation": "cloze",
        "licence": "CC0-1.0",
        "source": "made",
        "files": {"test": "rows"},
        "set": {
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{label}}",
        },
    }
    found = []
    for number, more in enumerate(({}, {"cluster": "passage"})):
        suite.write_text(json.dumps({"description": "One.", "tasks": [entry | more]}))
        given = {"suites": [str(suite)], "data": str(tmp_path)}
        (score,) = run_evaluate(made, tmp_path / f"out-{number}", **given).tasks
        found.append(score)
    assert found[0].value == found[1].value and (found[0].low, found[0].high) != (found[1].low, found[1].high)
    suite.write_text(json.dumps({"description": "One.", "tasks": [entry | {"cluster": "passag"}]}))
    (lost,) = run_evaluate(made, tmp_path / "out-3", **given).tasks
    assert "cluster: 24 of 24 questions have no field 'passag'; they have id, passage, question" in lost.failure
    assert found[0].suite == "own" and found[0].licence == "CC0-1.0" and len(found[0].digest) == 64
    assert not found[0].is_decontaminated  # no mask was given
    suite.write_text(json.dumps({"description": "One.", "tasks": [entry | {"digest": "0" * 64}]}))
    (score,) = run_evaluate(made, tmp_path / "changed", suites=[str(suite)], data=str(tmp_path)).tasks
    assert "the data have changed" in score.failure


def test_nothing_of_lm_eval_reaches_the_terminal(made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_evaluate(made, tmp_path / "out", tasks=["continuation"], questions_per_task=4)
    said = capfd.readouterr()
    assert said.out == "" and not [line for line in said.err.splitlines() if "evaluating" not in line]


def test_finished_scores_are_not_computed_again(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("eval.scoring.write_answers", None)  # it ends when all is scored and nothing is written yet
        with pytest.raises(TypeError):
            run_evaluate(made, tmp_path / "out")
    with monkeypatch.context() as broken:
        broken.setattr("eval.scoring.score_texts", None)
        scores = run_evaluate(made, tmp_path / "out")
    assert scores == run_evaluate(made, tmp_path / "again")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"samples"}


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
    monkeypatch.setattr("eval.tasks.suites.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"scored by lm-eval, which is not installed here; pip install"):
        check_tasks(EvaluateConfig())
    check_tasks(EvaluateConfig(tasks=()))
    with pytest.raises(ConfigError, match=r"smoke\.yaml:\d+: tasks are scored by lm-eval"):
        check_stages(prepare(read_recipe(Path("smoke"), (f"store={tmp_path}",))))
    check_stages(prepare(read_recipe(Path("smoke"), (f"store={tmp_path}", "outputs=[model]"))))  # makes no scores


@pytest.fixture(scope="module")
def several(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same with a training that has kept all its checkpoints."""
    root = tmp_path_factory.mktemp("several")
    config = tiny_config(sequence_length=CONTEXT, num_steps=6, checkpoint_every_steps=2)
    job = tiny_job(root / "job", config, world_size=1, zero_stage=1, retention={"newest": 9})
    job = replace(job, tokens=made.tokens, tokenizer=made.tokenizer)
    (trained,) = run_ranks(train_rank, 1, job)
    return replace(made, model=Artifact(job.out, trained))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


EVERY = {"checkpoints": "every", "documents_per_stream": 2}


def test_each_checkpoint_is_scored_once_the_newest_first(several: Made, tmp_path: Path) -> None:
    scores = run_evaluate(several, tmp_path / "out", **EVERY)
    assert [one.step for one in scores.curve] == [2, 4, 6]
    rows = rows_of(tmp_path / "out")
    assert list(dict.fromkeys(row["step"] for row in rows)) == [6, 4, 2]
    assert len({(row["step"], row["checkpoint"], row["task"], row["language"]) for row in rows}) == len(rows)
    assert scores.curve[-1].bits_per_byte == {name: one.bits_per_byte for name, one in scores.bits_per_byte.items()}
    alone = run_evaluate(several, tmp_path / "alone", checkpoint=4, documents_per_stream=2)
    assert scores.curve[1].bits_per_byte == {name: one.bits_per_byte for name, one in alone.bits_per_byte.items()}
    assert not (tmp_path / "out/parts").exists() and alone.curve == ()


def test_an_evaluation_that_is_killed_scores_no_checkpoint_twice(
    several: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    real = scoring.score_texts

    def dying(paths: Any, work: Any) -> Any:
        scored.append(paths.weights.step)
        if scored == [6, 4]:
            raise InfrastructureError("killed")
        return real(paths, work)

    monkeypatch.setattr(scoring, "score_texts", dying)
    with pytest.raises(InfrastructureError):
        run_evaluate(several, tmp_path / "out", **EVERY)
    assert {row["step"] for row in rows_of(tmp_path / "out")} == {6}
    run_evaluate(several, tmp_path / "out", **EVERY)
    assert scored == [6, 4, 4, 2]
    assert {row["step"] for row in rows_of(tmp_path / "out")} == {2, 4, 6}


@pytest.mark.parametrize("error", [Terminated("terminated"), StartUpError("no core became free")])
def test_what_is_no_fault_of_a_checkpoint_is_no_row(
    several: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: UserError
) -> None:
    def failing(paths: Any, work: Any) -> Any:
        raise error

    monkeypatch.setattr(scoring, "score_texts", failing)
    with pytest.raises(type(error)):
        run_evaluate(several, tmp_path / "out", **EVERY)
    assert not (tmp_path / "out/ledger.jsonl").exists()


def test_a_damaged_checkpoint_is_a_row_and_the_others_are_scored(several: Made, tmp_path: Path) -> None:
    copied = replace(several, model=Artifact(tmp_path / "train", several.model.manifest))
    shutil.copytree(several.model.dir, tmp_path / "train")
    (file,) = (tmp_path / "train/checkpoints/step-00000004").glob("rank-*.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    scores = run_evaluate(copied, tmp_path / "out", **EVERY)
    assert [bool(one.failure) for one in scores.curve] == [False, True, False]
    (row,) = [row for row in rows_of(tmp_path / "out") if row["step"] == 4]
    assert "step-00000004" in row["failure"]


def test_checkpoints_are_scored_while_the_training_goes_on(several: Made, tmp_path: Path) -> None:
    """Each look finds one checkpoint more; the second is deleted before it can be read."""
    training = tmp_path / "train"
    shutil.copytree(several.model.dir, training)
    kept = {step: tmp_path / f"step-{step:08d}" for step in (2, 4, 6)}
    for step, path in kept.items():
        (training / f"checkpoints/step-{step:08d}").rename(path)
    waiting = sorted(kept)
    seen: list[list[int]] = []

    def find() -> TrainedModel | None:
        seen.append(
            sorted(
                {row["step"] for row in rows_of(tmp_path / "out")} if (tmp_path / "out/ledger.jsonl").exists() else []
            )
        )
        if not waiting:
            return several.model.manifest
        step = waiting.pop(0)
        kept[step].rename(training / f"checkpoints/step-{step:08d}")
        return None

    config = EvaluateConfig.model_validate({"tasks": []} | EVERY)
    given = {"tokenizer": several.tokenizer, "corpus": (several.corpus,), "out": tmp_path / "out", "executor": INLINE}
    (tmp_path / "out").mkdir()
    scores = evaluate(config, model=Unfinished(training, find), **given)
    assert [one.step for one in scores.curve] == [2, 4, 6]
    assert seen[:4] == [[], [2], [2, 4], [2, 4, 6]]


def test_another_model_is_scored_beside_this_one(several: Made, tmp_path: Path) -> None:
    """Its own tokenizer reads, and what it read before is not known; this model's own export scores the same."""
    export = export_model(
        ExportConfig(dtype="float32"), model=several.model, tokenizer=several.tokenizer, out=tmp_path, executor=INLINE
    )
    given = {"documents_per_stream": 4, "tasks": ["continuation"], "questions_per_task": 4}
    path = str(tmp_path / export.path)
    scores = run_evaluate(several, tmp_path / "out", baselines={"itself": path}, **given)
    other = scores.baselines["itself"]
    assert other.bits_per_byte.keys() == scores.bits_per_byte.keys()
    for language, one in other.bits_per_byte.items():
        assert one.bits_per_byte == pytest.approx(scores.bits_per_byte[language].bits_per_byte, rel=1e-4)
    assert [one.value for one in other.tasks] == [one.value for one in scores.tasks]
    assert not any(one.is_decontaminated for one in other.tasks)
    rows, totals, uncompared = compare(tmp_path / "out/baselines/itself", tmp_path / "out")
    assert {row.verdict for row in rows} == {"cannot tell"} and len(totals) == 1
    assert {(one.measure, one.reason) for one in uncompared} == {("continuation", ONE_ALONE)}  # a group a language
    config = EvaluateConfig(tasks=(), baselines={"none": str(tmp_path)})
    with pytest.raises(UserError, match=r"has no config\.json, so it is no model"):
        observe_tasks(config, lambda path: "")
    seen: Any = observe_tasks(EvaluateConfig(tasks=(), baselines={"itself": path}), lambda path: path.name)
    assert "model.safetensors" in seen["baselines"]["itself"]


def local_suite(directory: Path, *, right_is_short: bool = False) -> Path:
    """A suite of one task, with 60 questions of a local file; return its path."""
    texts = [text for language, text in eld_sentences(60) if language == "en"]
    rows = []
    for number in range(60):
        choices = [text[:40] for text in texts[number % 50 + 1 : number % 50 + 4]]
        right = number % 3
        if right_is_short:
            choices[right] = choices[right][:4]
        rows.append({"question": texts[number % 60][:60], "choices": choices, "label": right})
    (directory / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "dataset_path": "local",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}],
    }
    entry = {"task": "quiz", "folder": ".", "kind": "multiple_choice", "licence": "CC0-1.0", "source": "made here"}
    entry |= {"files": {"test": "quiz"}, "set": settings}
    path = directory / "mine.yaml"
    path.write_text(dump_yaml({"description": "A quiz.", "tasks": [entry]}))
    return path


def test_what_an_untrained_network_can_do_is_told_of(made: Made, tmp_path: Path) -> None:
    """Of unlike lengths the likelihood of a whole prefers the shortest, which knows nothing."""
    (tmp_path / "short").mkdir()
    given = {"documents_per_stream": 1, "generations_per_language": 0}
    for directory, is_sound in ((tmp_path, True), (tmp_path / "short", False)):
        suite = local_suite(directory, right_is_short=not is_sound)
        scores = run_evaluate(made, directory / "out", suites=[str(suite)], data=str(directory), **given)
        (control,) = scores.untrained
        (family,) = find_families(scores)
        assert (control.task, control.num_questions, family.is_sound) == ("quiz", 60, is_sound)
    given |= {"suites": [str(suite)], "data": str(directory), "check_chance": False}
    alone = run_evaluate(made, directory / "none", **given)
    assert alone.untrained == () and alone.tasks == scores.tasks


def test_questions_that_changed_since_the_first_load_are_a_failure(made: Made, tmp_path: Path) -> None:
    suite, given = local_suite(tmp_path), {"documents_per_stream": 1, "check_chance": False, "data": str(tmp_path)}
    first = run_evaluate(made, tmp_path / "store/one", suites=[str(suite)], **given)
    assert run_evaluate(made, tmp_path / "store/two", suites=[str(suite)], **given).tasks == first.tasks
    rows = (tmp_path / "quiz.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "quiz.jsonl").write_text("".join(rows[1:]))
    (row,) = run_evaluate(made, tmp_path / "store/three", suites=[str(suite)], **given).tasks
    assert row.value is None and "when they were first loaded" in row.failure and row.failure.count("\n") == 0
    (row,) = run_evaluate(made, tmp_path / "store/four", suites=[str(suite)], questions_per_task=20, **given).tasks
    assert row.num_questions == 20 and not row.failure  # another number of questions is recorded by itself
    text = suite.read_text()
    suite.write_text(text.replace("source: made here", "source: made here\n  version: '2'"))
    assert run_evaluate(made, tmp_path / "store/five", suites=[str(suite)], **given).tasks[0].num_questions == 59


def test_a_checkpoint_whose_record_is_damaged_is_a_row(several: Made, tmp_path: Path) -> None:
    copied = replace(several, model=Artifact(tmp_path / "train", several.model.manifest))
    shutil.copytree(several.model.dir, tmp_path / "train")
    (tmp_path / "train/checkpoints/step-00000004/checkpoint.json").write_text("{")
    scores = run_evaluate(copied, tmp_path / "out", **EVERY)
    assert [(one.step, one.failure) for one in scores.curve] == [
        (2, ""),
        (4, "its record (checkpoint.json) is damaged"),
        (6, ""),
    ]


def test_an_answer_that_is_longer_than_the_context_is_no_score(made: Made, tmp_path: Path) -> None:
    """As lm-eval has it: the likelihood of its end alone would look like that of the whole."""
    path = write_task(tmp_path, "long", doc_to_choice="{{[passage, passage, passage]}}")
    (score,) = run_evaluate(made, tmp_path / "out", tasks=[path], check_chance=False).tasks
    assert score.value is None and "is longer than the model's context of 48" in score.failure


def test_another_model_that_cannot_be_read_is_told_and_the_own_scores_stay(made: Made, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "other/model.safetensors").write_bytes(b"cut off")
    scores = run_evaluate(made, tmp_path / "out", baselines={"other": str(tmp_path / "other")}, documents_per_stream=1)
    assert "other cannot be loaded by transformers" in scores.baselines["other"].failure
    assert scores.bits_per_byte and "\n" not in scores.baselines["other"].failure


def test_a_task_that_processes_die_of_is_a_row_in_the_end_and_another_run_asks_it_again(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A command whose process is gone has cleaned up nothing: its mark is there, and nobody holds it."""
    (tmp_path / "fatal.py").write_text(
        "import os, pathlib\n"
        "def ask(model):\n"
        f"    if not pathlib.Path({str(tmp_path / 'mended')!r}).exists(): os._exit(9)\n"
        "    yield {'question': 'a', 'value': 1}\n"
        "    yield {'question': 'b', 'value': 0}\n"
    )
    config = EvaluateConfig.model_validate({"tasks": [f"{tmp_path}/fatal.py:ask"], "documents_per_stream": 1})

    def run(out: str) -> Scores:
        given = {"model": made.model, "tokenizer": made.tokenizer, "corpus": (made.corpus,)}
        return evaluate(config, **given, out=tmp_path / out, executor=INLINE)

    for _ in range(scoring.MOST_DEATHS):
        child = os.fork()
        if not child:
            with suppress(BaseException):
                run("out")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (score,) = run("out").tasks
    assert score.failure == "its process died 2 times while it was asked, perhaps of want of memory"
    assert "ask: a process died while it was asked" in capfd.readouterr().err  # the second command said so
    assert not list(tmp_path.rglob("*.begun"))
    (tmp_path / "mended").write_text("")
    assert [one.failure for one in run("again").tasks] == [""]


def test_a_mark_that_is_held_is_of_no_dead_process(tmp_path: Path) -> None:
    done = tmp_path / "quiz-0.json"
    with mark_begun(done) as none, mark_begun(done) as other:
        assert (none, other) == (0, 0) and len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "quiz-0.x.begun").write_text("")
    with mark_begun(done) as one:
        assert one == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", ["{}", "[1]", "5", '{"failure": 3}', '{"answers": []}', '{"answers": [[1]]}'])
def test_a_kept_answer_of_another_shape_is_asked_again(made: Made, tmp_path: Path, kept: str) -> None:
    path = write_task(tmp_path, "choose")
    given = {"tasks": [path], "check_chance": False, "documents_per_stream": 1, "generations_per_language": 1}
    first = run_evaluate(made, tmp_path / "one", **given)
    files = list((tmp_path / "answers").rglob("*.json"))
    assert {file.name.partition("-")[0] for file in files} == {"texts", "prompts", "choose"}
    for file in files:
        file.write_text(kept)
    again = run_evaluate(made, tmp_path / "two", **given)
    assert again == first and [row.failure for row in again.tasks] == [""]


def test_masks_that_leave_out_every_held_out_document_are_told_before_anything_is_asked(
    made: Made, tmp_path: Path
) -> None:
    number = sum(shard.num_documents for shard in made.corpus.manifest.held_out)
    count = MaskCount(source="eld", language="en", dropped={}, num_bytes=0, num_held_out=number)
    mask = Mask(corpus=made.corpus.dir.resolve().name, shards=(), counts=(count,))
    check_held_out([made.corpus.manifest], [mask.model_copy(update={"counts": ()})])
    with pytest.raises(UserError, match=rf"the masks leave out all {number} held-out documents"):
        check_held_out([made.corpus.manifest], [mask])
    given = {"model": made.model, "tokenizer": made.tokenizer, "corpus": (made.corpus,)}
    masks = (Artifact(tmp_path, mask),)
    with pytest.raises(UserError, match="the masks leave out all"):
        evaluate(EvaluateConfig(), **given, mask=masks, out=tmp_path / "out", executor=INLINE)


def test_a_checkpoint_that_is_made_anew_is_not_answered_by_the_weights_that_were_there(
    several: Made, tmp_path: Path
) -> None:
    """After a roll-back another checkpoint has the path; a worker may still hold what was there."""
    from eval.workers import Texts, WorkerPaths, score_texts

    path = tmp_path / "step-00000006"
    found = []
    for step in (2, 6):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(several.model.dir / f"checkpoints/step-{step:08d}", path)
        paths = WorkerPaths(ChosenWeights((path,), "master"), several.tokenizer, is_offline=True, identity=f"{step}")
        found.append(score_texts(paths, Texts(("some text",)))["nats"])
    assert found[0] != found[1]


def test_what_a_checkpoint_answered_is_not_asked_again_by_another_evaluation(
    several: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more task is asked of all, also of a checkpoint that is gone, if that answered all before."""
    training = tmp_path / "train"
    shutil.copytree(several.model.dir, training)
    copied = replace(several, model=Artifact(training, several.model.manifest))
    run_evaluate(copied, tmp_path / "one", **EVERY)
    gone = training / "checkpoints/step-00000002"
    note_deleted(gone.parent, read_known_record(gone))
    shutil.rmtree(gone)
    asked = []
    real = scoring.score_texts
    monkeypatch.setattr(scoring, "score_texts", lambda paths, work: asked.append(paths) or real(paths, work))
    second = run_evaluate(copied, tmp_path / "two", **EVERY)
    assert [(one.step, one.failure) for one in second.curve] == [(2, ""), (4, ""), (6, "")] and asked == []
    path = write_task(tmp_path, "choose")
    third = run_evaluate(copied, tmp_path / "three", tasks=[path], check_chance=False, **EVERY)
    assert [(one.step, one.failure[:9], [*one.tasks]) for one in third.curve] == [
        (2, "retention", []),
        (4, "", ["choose"]),
        (6, "", ["choose"]),
    ]
    assert asked == []
    for path in (tmp_path / "answers").rglob("texts-*.json"):
        path.write_bytes(path.read_bytes()[:20])  # damaged answers are none
    fourth = run_evaluate(copied, tmp_path / "four", **EVERY)
    assert len(asked) == 2 and [bool(one.failure) for one in fourth.curve] == [True, False, False]


def test_two_checkpoints_of_a_training_are_compared(several: Made, tmp_path: Path) -> None:
    run_evaluate(several, tmp_path / "out", **EVERY)
    first, second = (tmp_path / f"out/checkpoints/step-{step:08d}" for step in (2, 6))
    rows, _, _ = compare(first, second)
    assert {row.measure for row in rows} == {"bits_per_byte"} and {row.language for row in rows} == set(LANGUAGES)
