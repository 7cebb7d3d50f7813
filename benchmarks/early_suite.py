"""Compare the early suite with the plain `lm_eval` command on the same tasks, model, batch of 16 and device.

    python benchmarks/early_suite.py [--questions 300] [--turns 2]

A model of 3.7M parameters with 8,192 pieces answers made-up questions (tests/eval/tasks/fixtures.py) of the suite's
tasks in their languages. `first` is a process of Concord's from its start until all is scored, `later` a second
checkpoint in the same process, as in a worker that evaluates each; `command` is `lm_eval run`. Turns alternate. The
scores are compared: equal to the last digit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

MODEL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}

OURS = """
import json, sys, time
start = time.time()
from pathlib import Path
from cluster.inline import InlineExecutor
from configs.evaluation import EvaluateConfig
from configs.pools import PoolConfig
from eval.scoring import Scoring
from eval.tasks.suites import find_tasks
place, first, second = map(Path, sys.argv[1:])
config = EvaluateConfig(tasks=(), suites=("early",), data=str(place / "data"))
scoring = Scoring(config, (), find_tasks(config), None, place / "digests")
seconds, scores = [], {}
for number, model in enumerate((first, second)):
    answered = scoring.answer(model, place / f"parts-{time.time()}", InlineExecutor(PoolConfig()))
    scores = {row.task: row.value for row in scoring.task_scores(answered)}
    seconds.append(time.time() - start)
    start = time.time()
    if number == 0:
        first_scores = scores
print(json.dumps({"seconds": seconds, "scores": first_scores}))
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        compare(Path(directory), num_questions=given.questions, turns=given.turns)


def compare(place: Path, *, num_questions: int, turns: int) -> None:
    """Have both score the suite in turns."""
    from configs.evaluation import EvaluateConfig
    from eval.tasks.suites import find_tasks
    from tests.eval.tasks.fixtures import write_data

    write_data(place / "data", seed=0, num_questions=num_questions)
    models = [write_model(place / f"model-{seed}", seed) for seed in (0, 1)]
    tasks = find_tasks(EvaluateConfig(tasks=(), suites=("early",), data=str(place / "data")))
    (place / "tasks").mkdir()
    for task in tasks:
        write_task(place / "tasks", task)
    seconds: dict[str, list[float]] = {"command": [], "first": [], "later": []}
    for turn in range(turns):
        start = time.time()
        theirs = run_command(place, models[0], [task.name for task in tasks], place / f"out-{turn}")
        seconds["command"].append(time.time() - start)
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", OURS, place, *models], cwd=ROOT, check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        seconds["first"].append(time.time() - start - found["seconds"][1])
        seconds["later"].append(found["seconds"][1])
        assert found["scores"] == theirs, (found["scores"], theirs)
    best = {name: min(own) for name, own in seconds.items()}
    ratios = {name: round(best[name] / best["command"], 3) for name in ("first", "later")}
    rounded = {name: [round(one, 2) for one in own] for name, own in seconds.items()}
    print(json.dumps({"tasks": len(tasks), "questions": num_questions, "seconds": rounded, "of the command": ratios}))


def write_model(directory: Path, seed: int) -> Path:
    """Write a model's directory, with a tokenizer of words of the questions."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.eval.tasks.made_up import texts

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=8192, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(directory)
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(vocab_size=8192, max_position_embeddings=1024, **MODEL)).save_pretrained(directory)
    return directory


def write_task(directory: Path, task: Any) -> None:
    """Write a task as lm-eval's command takes it: its own file, and what the suite sets otherwise."""
    files = {split: f"{stem}" for split, stem in task.files}
    settings = {
        "include": str(task.file),
        "task": task.name,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(directory / "cache")},
        **{f"{key}_split": None for key in ("training", "validation", "test", "fewshot") if key not in _splits(task)},
        **dict(task.overrides),
        **({} if task.num_fewshot is None else {"num_fewshot": task.num_fewshot}),
        "metric_list": [{"metric": (task.metric or "acc").partition(",")[0]}],
    }
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
    (directory / f"{task.name}.yaml").write_text(text)


def _splits(task: Any) -> set[str]:
    """Return the keys of splits that a task may keep: those whose files are there."""
    from lm_eval.tasks._yaml_loader import load_yaml

    own = load_yaml(task.file, resolve_func=True)
    names = {split for split, _ in task.files}
    return {key for key in ("training", "validation", "test", "fewshot") if own.get(f"{key}_split") in names}


def run_command(place: Path, model: Path, names: list[str], out: Path) -> Mapping[str, float]:
    """Run lm-eval's command, and return its scores."""
    command = [Path(sys.executable).parent / "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "16"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--tasks", ",".join(names)]
    command += ["--include_path", place / "tasks", "--output_path", out]
    subprocess.run(command, check=True, capture_output=True, env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"})
    (path,) = out.rglob("results_*.json")
    found = json.loads(path.read_text())["results"]
    return {name: found[name]["acc_bytes,none"] for name in names}


if __name__ == "__main__":
    main()
