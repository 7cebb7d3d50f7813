"""What a worker does to score a model. It keeps the model loaded from one item to the next."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.train_tokenizer import HUGGING_FACE, MODEL
from eval.word_order import Question

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Paths:
    """Where a worker finds what it needs."""

    checkpoint: Path
    tokenizer: Path
    questions: Path
    """Where it writes the questions for lm-eval."""


@dataclass(frozen=True)
class Texts:
    """Texts to find the likelihood of."""

    texts: tuple[str, ...]


def score_texts(paths: Paths, work: Texts) -> dict[str, Any]:
    """`nats`: the negative log-likelihood of each text."""
    from data_prep.tokenizer import EOS_ID, encode, load
    from eval.likelihood import document_nats

    ids = encode(load(paths.tokenizer / MODEL), list(work.texts))
    return {"nats": document_nats(ids, _model(paths.checkpoint), prefix=EOS_ID)}


def score_questions(paths: Paths, work: tuple[Question, ...]) -> dict[str, Any]:
    """`right`: whether each question was answered rightly; `lm_eval_version`."""
    from transformers import AutoTokenizer

    from eval.harness import right_answers, version

    tokenizer = AutoTokenizer.from_pretrained(paths.tokenizer / HUGGING_FACE)
    right = right_answers(list(work), paths.questions, model=_model(paths.checkpoint), tokenizer=tokenizer)
    return {"right": right, "lm_eval_version": version()}


@lru_cache(maxsize=1)
def _model(checkpoint: Path) -> "PreTrainedModel":
    import torch

    from training.load import load_model

    return load_model(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
