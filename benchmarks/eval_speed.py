"""Compare scoring tasks with plain lm-eval, in time, and with training the same model, in memory.

    python benchmarks/eval_speed.py [--questions 200] [--turns 2] [--vocabulary 262144]

Time: a model of 3.7M parameters and 8,192 pieces answers questions of two choices, of sentences in four languages, by
lm-eval's own Hugging Face model (batches of 16) and by Concord's scorer, in turns, in one process; scores are the same.
Memory: the peak of processes that score 24 sequences of 512 tokens, by both, and that train one step of 8 of them with
AdamW, at a large vocabulary. Prints a JSON line for each.
"""

import argparse
import importlib.resources
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

LANGUAGES = ("en", "ru", "th", "zh")
MODEL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}

PEAK = """
import json, resource, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
what, given = sys.argv[1], json.loads(sys.argv[2])
model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=512, tie_word_embeddings=True, **given))
ids = [list(range(i, i + 513)) for i in range(24)]
if what == "concord":
    from eval.likelihood import Scorer, Targets
    Scorer(model.eval()).score([Targets(one, 1) for one in ids])
elif what == "lm-eval":
    with torch.inference_mode():
        for start in range(0, 24, 8):
            logits = model.eval()(torch.tensor(ids[start : start + 8])[:, :-1]).logits
            torch.nn.functional.log_softmax(logits, dim=-1)
else:
    from training.network.head_loss import LossHead
    head = LossHead(model.get_output_embeddings(), softcap=None, z_weight=0.0, max_tokens=8 * 512)
    model.set_output_embeddings(head)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = torch.tensor(ids[:8])
    states = model.base_model(rows[:, :-1]).last_hidden_state
    head(states.flatten(0, 1), rows[:, 1:].flatten())[0].backward()
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    given = parser.parse_args()
    sizes = MODEL | {"vocab_size": given.vocabulary}
    peaks = {}
    for what in ("training", "concord", "lm-eval"):
        command = [sys.executable, "-c", PEAK, what, json.dumps(sizes)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
        peaks[what] = round(float(done.stdout))
    print(json.dumps({"what": "peak", "vocabulary": given.vocabulary, "mebibytes": peaks}), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        compare_speed(Path(directory), num_questions=given.questions, turns=given.turns)


def compare_speed(directory: Path, *, num_questions: int, turns: int) -> None:
    """Have both answer the same tasks in turns."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from configs.evaluation import EvaluateConfig
    from eval.likelihood import Scorer
    from eval.tasks.harness import answer_task
    from eval.tasks.suites import find_tasks

    texts = read_texts()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text for own in texts.values() for text in own[:400]], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8192, max_position_embeddings=512, **MODEL)).eval()
    paths = [write_task(directory, language, own, num_questions) for language, own in texts.items()]
    tasks, scorer = find_tasks(EvaluateConfig(tasks=tuple(paths))), Scorer(model)
    seconds: dict[str, list[float]] = {"lm-eval": [], "concord": []}
    for _ in range(turns):
        start = time.perf_counter()
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=wrapped, batch_size=16, device="cpu"),
            tasks=[task.name for task in tasks],
            task_manager=TaskManager(include_path=str(directory), include_defaults=False),
            bootstrap_iters=0,
        )
        middle = time.perf_counter()
        ours = {task.name: answer_task(task, None, scorer, wrapped, limit=None).value for task in tasks}
        seconds["lm-eval"].append(round(middle - start, 2))
        seconds["concord"].append(round(time.perf_counter() - middle, 2))
        assert ours == {name: one["acc,none"] for name, one in found["results"].items()}
    ratio = round(min(seconds["concord"]) / min(seconds["lm-eval"]), 3)
    print(json.dumps({"what": "time", "questions": num_questions * len(tasks), "seconds": seconds, "ratio": ratio}))


def read_texts() -> dict[str, list[str]]:
    """Return sentences by language."""
    lines = (importlib.resources.files("eld") / "tests/data/big-test.txt").read_text(encoding="utf-8").splitlines()
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        language, _, text = line.partition("\t")
        if language in LANGUAGES:
            texts[language].append(text)
    return dict(texts)


def write_task(directory: Path, language: str, texts: list[str], number: int) -> str:
    """Write a task of lm-eval's with its questions; return its path."""
    rows = [
        {"context": texts[i], "choices": [texts[i + 1][:60], texts[i + 2][:60]], "label": i % 2} for i in range(number)
    ]
    data = directory / f"{language}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "task": f"made_{language}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(directory / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1},
    }
    path = directory / f"made_{language}.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    return str(path)


if __name__ == "__main__":
    main()
