"""What a worker does to score a model. It keeps the model loaded from one item to the next."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
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
    from data_prep.tokenizer.sentencepiece_model import EOS_ID, encode, load
    from eval.likelihood import document_nats

    ids = encode(load(paths.tokenizer / MODEL), list(work.texts))
    return {"nats": document_nats(ids, _model(paths.checkpoint), prefix=EOS_ID)}


def score_questions(paths: Paths, work: tuple[Question, ...]) -> dict[str, Any]:
    """`right`: whether each question was answered rightly, None if it does not fit into the model's context;
    `lm_eval_version`."""
    from transformers import AutoTokenizer

    from eval.lm_eval_tasks import right_answers, version

    tokenizer, model = AutoTokenizer.from_pretrained(paths.tokenizer / HUGGING_FACE), _model(paths.checkpoint)
    longest = int(model.config.max_position_embeddings)
    fitting = [question for question in work if _num_tokens(question, tokenizer) <= longest]
    answers = iter(right_answers(fitting, paths.questions, model=model, tokenizer=tokenizer) if fitting else [])
    kept = set(fitting)
    return {"right": [next(answers) if q in kept else None for q in work], "lm_eval_version": version()}


def _num_tokens(question: Question, tokenizer: Any) -> int:
    """Of the longest choice after the context, cut as lm-eval cuts them."""
    context = len(tokenizer(question.context).input_ids)
    return max(len(tokenizer(question.context + choice).input_ids) - context for choice in question.choices)


@lru_cache(maxsize=1)
def _model(checkpoint: Path) -> "PreTrainedModel":
    import torch

    from training.checkpoint.load_model import load_model

    return load_model(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
