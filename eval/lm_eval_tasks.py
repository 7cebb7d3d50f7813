"""Score the word-order task with lm-eval, from a local file and without network. The only file that imports lm_eval."""

import glob
import json
import os
from dataclasses import asdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # lm-eval looks datasets and metrics up on the hub even when all is local
os.environ["TQDM_DISABLE"] = "1"
import lm_eval
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.word_order import Question

TASK = "word_order"
BATCH_SIZE = 32


def answer_questions(
    questions: list[Question], file: Path, *, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    """Return for each question whether the model gives the real text the highest log-likelihood.

    The questions are written to `file`, which lm-eval reads. Raises RuntimeError if lm-eval scored too few of them.
    """
    file.write_text("".join(f"{json.dumps(asdict(question))}\n" for question in questions), encoding="utf-8")
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": glob.escape(str(file))},
            "cache_dir": str(file.with_suffix(".cache")),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1},
    }
    results = evaluate(  # simple_evaluate would also look for git and take seconds to describe the machine
        lm=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE, device=str(model.device)),
        task_dict=get_task_dict([task], TaskManager(include_defaults=False)),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results is not None  # only ranks other than the first get None, and there is one rank
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    if len(samples) != len(questions):
        raise RuntimeError(f"lm-eval scored {len(samples)} of {len(questions)} questions")
    return [bool(sample["acc"]) for sample in samples]


def lm_eval_version() -> str:
    """Return the version of lm-eval."""
    return str(lm_eval.__version__)
