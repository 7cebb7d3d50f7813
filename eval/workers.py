"""The work of a worker that scores a model. It keeps the model loaded from one item of work to the next."""

import errno
import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.base import UserError
from configs.text import one_line
from data_prep.tokenizer.stage import HUGGING_FACE
from eval.tasks.suites import Task
from training.checkpoint.choice import ChosenWeights

if TYPE_CHECKING:
    from eval.likelihood import Scorer


@dataclass(frozen=True)
class WorkerPaths:
    """The files that a worker needs."""

    weights: ChosenWeights | Path
    """Weights of a training, or the directory of another model, of Hugging Face's, with its tokenizer."""

    tokenizer: Path
    """The artifact of a training's tokenizer."""

    begin_id: int
    """The id that stands before a text, the one that begins it or ends the one before (data_prep/manifests.py)."""

    end_id: int
    is_offline: bool
    """Whether no task needs the Hub."""


@dataclass(frozen=True)
class Texts:
    """Texts whose likelihood is to be computed."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class TaskWork:
    """A task that is to be answered."""

    task: Task
    rows: tuple[Mapping[str, Any], ...] | None
    """The questions of a task that is made here."""

    limit: int | None


def score_texts(paths: WorkerPaths, work: Texts) -> dict[str, Any]:
    """Return `nats`: the negative log-likelihood of each text and its end, and `precision`, that of the weights."""
    from data_prep.tokenizer.encoder import open_encoder

    scorer = _load_scorer(paths.weights)
    if isinstance(paths.weights, Path):
        tokenizer = _load_tokenizer(paths)
        ids = tokenizer(list(work.texts), add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if end is None:
            raise UserError(f"{paths.weights}: its tokenizer has no end of text, so that no text can be scored whole")
    else:
        ids, begin, end = open_encoder(paths.tokenizer)(list(work.texts)), paths.begin_id, paths.end_id
    return {"nats": scorer.document_nats(ids, begin=begin, end=end), "precision": _precision(scorer)}


def answer(paths: WorkerPaths, work: TaskWork) -> dict[str, Any]:
    """Return a task's answers, or `failure`, one sentence: a task that fails is a row among the scores, and no end.

    What the machine fails of, such as memory or a disk, is raised.
    """
    if paths.is_offline:  # before datasets is imported: else it looks up what is there
        os.environ["HF_HUB_OFFLINE"] = "1"
    from eval.tasks.harness import answer_task, lm_eval_version

    tokenizer = _load_tokenizer(paths)
    scorer = _load_scorer(paths.weights)
    found: dict[str, Any] = {"lm_eval_version": lm_eval_version(), "precision": _precision(scorer)}
    try:
        return found | asdict(answer_task(work.task, work.rows, scorer, tokenizer, limit=work.limit))
    except UserError as error:
        return found | {"failure": str(error)}
    except (Exception, SystemExit) as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        return found | {"failure": _describe(error)}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:300]}"


def _precision(scorer: "Scorer") -> str:
    return str(scorer.model.dtype).removeprefix("torch.")


@lru_cache(maxsize=1)
def _load_tokenizer(paths: WorkerPaths) -> Any:
    from transformers import AutoTokenizer

    if isinstance(paths.weights, Path):
        return AutoTokenizer.from_pretrained(paths.weights)
    return AutoTokenizer.from_pretrained(paths.tokenizer / HUGGING_FACE, split_special_tokens=True)


_held: "dict[ChosenWeights | Path, Scorer]" = {}
"""The model that this process holds, one at most."""


def _load_scorer(weights: ChosenWeights | Path) -> "Scorer":
    if weights not in _held:
        forget_model()  # before the next one is loaded: a device may not hold two
        _held[weights] = _open_scorer(weights)
    return _held[weights]


def _open_scorer(weights: ChosenWeights | Path) -> "Scorer":
    import torch
    from transformers import AutoModelForCausalLM

    from eval.likelihood import Scorer
    from training.accelerator import find_device_type
    from training.checkpoint.load_model import load_model

    device = find_device_type()
    # products of bf16 took 20 times as long on a CPU without instructions for them
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if isinstance(weights, Path):
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype).eval()
    else:
        model = load_model(*weights.checkpoints, kind=weights.kind).to(dtype)
    return Scorer(model.to(device))


def forget_model() -> None:
    """Free the memory of the model that this process holds, if it holds one."""
    _held.clear()
    if (harness := sys.modules.get("eval.tasks.harness")) is not None:
        harness.forget_model()
    if (torch := sys.modules.get("torch")) is not None:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
