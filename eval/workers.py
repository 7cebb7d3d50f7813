"""The work of a worker that scores a model. It keeps the model loaded from one item of work to the next."""

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.device_errors import failure_kind
from configs.base import Artifact, UserError
from configs.text import one_line
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE
from eval.tasks.task import Task
from training.checkpoint.choice import ChosenWeights

if TYPE_CHECKING:
    from eval.likelihood import Scorer
    from eval.tasks.answers import Answers

UNTRAINED_CONTEXT = 2048
"""Context of the untrained network, in tokens."""


@dataclass(frozen=True)
class Untrained:
    """A small network that was never trained."""

    tokenizer: Path | None = None
    """The directory of another model whose tokenizer it has; None: that of the training."""

    seed: int = 0


Weights = ChosenWeights | Path | Untrained
"""Weights of a training, the directory of another model, of Hugging Face's, with its tokenizer, or of no training."""


@dataclass(frozen=True)
class WorkerPaths:
    """The files that a worker needs."""

    weights: Weights
    tokenizer: Artifact[TrainedTokenizer] | None
    """A training's tokenizer; None where it is that of another model's directory."""

    is_offline: bool
    """Whether no task needs the Hub."""

    identity: str = ""
    """What tells weights apart that have been at one path: after a roll-back a checkpoint is made anew."""


@dataclass(frozen=True)
class Texts:
    """Texts whose likelihood is to be computed."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """Beginnings of texts that the model is to go on."""

    texts: tuple[str, ...]
    num_tokens: int
    """Tokens that are written at most, if the model's context has twice as many."""


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

    scorer = _load_scorer(paths)
    if paths.tokenizer is None:
        tokenizer = _load_tokenizer(paths)
        ids = tokenizer(list(work.texts), add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if end is None:
            raise UserError(f"{paths.weights}: its tokenizer has no end of text, so that no text can be scored whole")
    else:
        known = paths.tokenizer.manifest
        ids, begin, end = open_encoder(paths.tokenizer.dir)(list(work.texts)), known.boundary_id, known.eos_id
    return {"nats": scorer.document_nats(ids, begin=begin, end=end), "precision": _precision(scorer)}


def continue_texts(paths: WorkerPaths, work: Prompts) -> dict[str, Any]:
    """Return `texts`: what the model finds the likeliest to follow each of the beginnings."""
    from eval.tasks.asked import AskedModel

    model = AskedModel(_load_scorer(paths), _load_tokenizer(paths))
    return {"texts": model.generate(work.texts, max_tokens=min(work.num_tokens, model.context // 2))}


def answer(paths: WorkerPaths, work: TaskWork) -> dict[str, Any]:
    """Return a task's answers, or `failure`, one sentence: a task that fails is a row among the scores, and no end.

    What the machine fails of, such as memory or a disk, is raised.
    """
    if paths.is_offline:  # before datasets is imported: else it looks up what is there
        os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, Any] = {}
    try:
        answers, precision = _ADAPTERS[work.task.adapter](paths, work)
        return {"precision": precision} | asdict(answers)
    except UserError as error:
        if type(error) is not UserError:  # of the machine, or a signal
            raise
        return found | {"failure": str(error)}
    except (Exception, SystemExit) as error:
        _note_unreachable(error)
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or isinstance(error, MemoryError) or (not isinstance(error, OSError) and failure_kind(error)):
            raise
        return found | {"failure": _describe(error)}


def _ask_lm_eval(paths: WorkerPaths, work: TaskWork) -> "tuple[Answers, str]":
    from eval.tasks.harness import answer_task

    scorer = _load_scorer(paths)
    return answer_task(work.task, work.rows, scorer, _load_tokenizer(paths), limit=work.limit), _precision(scorer)


def _ask_python(paths: WorkerPaths, work: TaskWork) -> "tuple[Answers, str]":
    from eval.tasks.asked import AskedModel, answer_python_task

    scorer = _load_scorer(paths)
    model = AskedModel(scorer, _load_tokenizer(paths))
    return answer_python_task(work.task, model, limit=work.limit), _precision(scorer)


def _ask_command(paths: WorkerPaths, work: TaskWork) -> "tuple[Answers, str]":
    from eval.tasks.programs import answer_by_program
    from training.export import write_hugging_face

    forget_model()  # the program loads it on the same device
    precision = "bfloat16"

    def write(directory: Path) -> Path:
        if isinstance(paths.weights, Path):
            return paths.weights
        assert isinstance(paths.weights, ChosenWeights) and paths.tokenizer is not None
        write_hugging_face(paths.weights, paths.tokenizer, directory, dtype=precision)
        return directory

    return answer_by_program(work.task, write, limit=work.limit), precision


_ADAPTERS: "Mapping[str, Callable[[WorkerPaths, TaskWork], tuple[Answers, str]]]" = {
    "lm_eval": _ask_lm_eval,
    "python": _ask_python,
    "command": _ask_command,
}


_unreachable: list[str] = []
"""Why the Hub cannot be reached, once a task failed of it: the next ones of this model do not wait for it again."""


def _note_unreachable(error: BaseException) -> None:
    if _unreachable or "Couldn't reach" not in str(error):
        return
    _unreachable.append(one_line(error))
    _set_offline(True)


def _set_offline(value: bool) -> None:
    for name in ("huggingface_hub.constants", "datasets.config"):
        if (module := sys.modules.get(name)) is not None:
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:300]}"


def _precision(scorer: "Scorer") -> str:
    return str(scorer.model.dtype).removeprefix("torch.")


def _load_tokenizer(paths: WorkerPaths) -> Any:
    if paths.tokenizer is None:
        directory = paths.weights.tokenizer if isinstance(paths.weights, Untrained) else paths.weights
        assert isinstance(directory, Path)
        return _open_tokenizer(directory, is_ours=False)
    return _open_tokenizer(paths.tokenizer.dir / HUGGING_FACE, is_ours=True)


@lru_cache(maxsize=1)
def _open_tokenizer(directory: Path, *, is_ours: bool) -> Any:
    from transformers import AutoTokenizer

    with _explained(directory):
        return AutoTokenizer.from_pretrained(directory, **({"split_special_tokens": True} if is_ours else {}))


_held: "dict[tuple[Weights, str], Scorer]" = {}
"""The model that this process holds, one at most."""


def _load_scorer(paths: WorkerPaths) -> "Scorer":
    wanted = (paths.weights, paths.identity)
    if wanted not in _held:
        forget_model()  # before the next one is loaded: a device may not hold two
        _held[wanted] = _open_scorer(paths)
    return _held[wanted]


def _open_scorer(paths: WorkerPaths) -> "Scorer":
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from eval.likelihood import Scorer
    from training.accelerator import find_device_type
    from training.checkpoint.load_model import load_model

    logging.disable_progress_bar()
    weights, device = paths.weights, find_device_type()
    # products of bf16 took 20 times as long on a CPU without instructions for them
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if isinstance(weights, Path):
        with _explained(weights):
            model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype).eval()
    elif isinstance(weights, Untrained):
        model = _make_untrained(weights.seed, len(_load_tokenizer(paths))).to(dtype)
    else:
        model = load_model(*weights.checkpoints, kind=weights.kind).to(dtype)
    return Scorer(model.to(device))


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Raise UserError if a model's directory cannot be read, whatever the library raises of it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserError(f"{directory} cannot be loaded by transformers: {_describe(error)}") from error


def _make_untrained(seed: int, vocab_size: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=UNTRAINED_CONTEXT, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def forget_model() -> None:
    """Free the memory of the model that this process holds, if it holds one."""
    _held.clear()
    if _unreachable:
        _unreachable.clear()
        _set_offline(False)
    if (harness := sys.modules.get("eval.tasks.harness")) is not None:
        harness.forget_model()
    if (torch := sys.modules.get("torch")) is not None:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
