"""Trainings that follow each other in one recipe; and a checkpoint of one that is not finished, evaluated and exported.

A training without its record.json is one that was killed after its last checkpoint.
"""

import json
import random
import sys
from pathlib import Path

import pytest

from pipeline.cli.app import main
from pipeline.store.artifact import RECORD, read_record

RECIPE = """\
name: chain
steps:
  corpus:
    stage: clean
    config:
      sources: [{name: words, kind: plain_text, paths: ["texts/*.txt"], language: en}]
      held_out: {share: 0.2}
  tokenizer: {stage: train_tokenizer, inputs: {corpus: corpus}, config: {vocab_size: 300}}
  tokens: {stage: tokenize, inputs: {corpus: corpus, tokenizer: tokenizer}}
  pretrain:
    stage: train
    inputs: {tokens: tokens, tokenizer: tokenizer}
    config:
TRAINING
  anneal:
    stage: train
    inputs: {tokens: tokens, tokenizer: tokenizer, init: pretrain}
    config:
TRAINING
      mixture: {budget_tokens: 4096, max_epochs: 5}
      init_from: {mode: new_data, checkpoint: best}
  scores:
    stage: evaluate
    inputs: {model: anneal, tokenizer: tokenizer, corpus: corpus}
    config: {tasks: [], documents_per_stream: 2}
  export: {stage: export, inputs: {model: anneal, tokenizer: tokenizer}, config: {dtype: float32}}
"""
BEFORE = """\
  before: {stage: export, inputs: {model: pretrain, tokenizer: tokenizer}}
"""
TRAINING = """\
      model: {hidden_size: 16, intermediate_size: 24, num_layers: 1, num_attention_heads: 2}
      sequence_length: 16
      global_batch_size: 4
      num_steps: 4
      checkpoint_every_steps: 2
      precision: fp32
      optimizer: {learning_rate: 1e-2}
      schedule: {kind: cosine, num_warmup_steps: 1}
      ema: {}
"""


@pytest.fixture
def concord(monkeypatch, capfd):
    """Call the command; standard error has a descriptor, which the watchdog of a training writes stacks to."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["concord", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capfd.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    source, syllables = random.Random(0), ["ba", "lo", "mi", "ra", "tu", "se", "ko", "ne"]
    (tmp_path / "texts").mkdir()
    for number in range(40):
        words = ["".join(source.choices(syllables, k=source.randint(1, 3))) for _ in range(60)]
        (tmp_path / "texts" / f"{number}.txt").write_text(f"{' '.join(words)}.")
    (tmp_path / "chain.yaml").write_text(RECIPE.replace("TRAINING\n", TRAINING))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(place: Path, stage: str) -> list[Path]:
    return sorted(place.glob(f"store/{stage}-*"), key=lambda path: path.stat().st_mtime)


def test_trainings_follow_each_other_and_a_checkpoint_of_an_unfinished_one_is_evaluated_and_exported(place, concord):
    code, out, err = concord("run", "chain.yaml", "--cluster", "inline")
    assert (code, err.rpartition("concord:")[1]) == (0, ""), err
    assert "held out" in out
    pretrain, anneal = made(place, "train")
    record = read_record(anneal)
    assert record.inputs["init"].artifact == pretrain.name
    assert f"init: {pretrain.name}" in concord("lineage", "chain.yaml:anneal")[1]
    last = json.loads((anneal / "checkpoints/step-00000004/checkpoint.json").read_text())
    assert (last["step"], last["order"]["phases"][0]["num_samples"]) == (4, 256)
    best = read_record(pretrain).manifest["best_checkpoint"]
    updates = json.loads((pretrain / best / "checkpoint.json").read_text())["num_updates"]
    assert last["num_updates"] == updates + 4, "the moments are those of the best checkpoint before"

    (place / "export.yaml").write_text((place / "chain.yaml").read_text() + BEFORE)
    (anneal / RECORD).rename(anneal / "kept")
    (anneal / "checkpoints").rename(anneal / "later")  # as if only the first training had begun
    code, out, err = concord("run", "export.yaml", "--cluster", "inline", "--checkpoint", "2")
    assert code == 0, err
    assert read_record(made(place, "export")[-1]).manifest["step"] == 2
    assert "scores" not in out, "of the training that follows there is nothing yet"
    (anneal / "later").rename(anneal / "checkpoints")
    (anneal / "kept").rename(anneal / RECORD)

    finished = {stage: made(place, stage) for stage in ("evaluate", "export", "train")}
    (anneal / RECORD).unlink()
    code, out, err = concord("run", "chain.yaml", "--cluster", "inline", "--checkpoint", "2")
    assert code == 0, err
    assert "anneal" not in out, "it trains no further"
    scores, export = made(place, "evaluate")[-1], made(place, "export")[-1]
    assert (read_record(scores).manifest["step"], read_record(export).manifest["step"]) == (2, 2)
    assert not (anneal / RECORD).exists()
    config = ["--set", "steps.export.config.weights=ema", "--set", "steps.export.config.average=2"]
    code, _, err = concord("run", "chain.yaml", "--cluster", "inline", "--checkpoint", "last", *config)
    assert code == 0, err
    assert read_record(made(place, "export")[-1]).config | {"dtype": "", "license": ""} == {
        "checkpoint": 4,
        "weights": "ema",
        "average": 2,
        "dtype": "",
        "license": "",
    }
    code, _, err = concord("run", "chain.yaml", "--cluster", "inline", "--checkpoint", "3")
    assert (code, "no checkpoint of step 3; choose another one (there are: 2, 4)" in err) == (1, True)
    code, _, err = concord("run", "chain.yaml", "--cluster", "inline", "--checkpoint", "newest")
    assert (code, "give last, best, or the number of a step" in err) == (1, True)

    code, out, err = concord("run", "chain.yaml", "--cluster", "inline")
    assert code == 0, err
    assert {stage: made(place, stage)[: len(found)] for stage, found in finished.items()}["train"] == finished["train"]
    code, out, _ = concord("run", "chain.yaml", "--cluster", "inline", "--checkpoint", "2")
    assert out.count("reused") == 2, "step 2 is the same step 2 once the training is finished"
