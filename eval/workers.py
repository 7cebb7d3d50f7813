"""The work of a worker that scores a model. It keeps the model loaded from one item of work to the next."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer.stage import HUGGING_FACE
from eval.word_order import Question
from training.checkpoint.choice import ChosenWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class WorkerPaths:
    """The files that a worker needs."""

    weights: ChosenWeights
    tokenizer: Path
    boundary_id: int
    """The id that stands before a text (data_prep/manifests.py)."""

    questions: Path
    """File to write the questions to, for lm-eval."""


@dataclass(frozen=True)
class Texts:
    """Texts whose likelihood is to be computed."""

    texts: tuple[str, ...]


def score_texts(paths: WorkerPaths, work: Texts) -> dict[str, Any]:
    """Return `nats`: the negative log-likelihood of each text."""
    from data_prep.tokenizer.encoder import open_encoder
    from eval.likelihood import document_nats

    ids = open_encoder(paths.tokenizer)(list(work.texts))
    return {"nats": document_nats(ids, _load_model(paths.weights), prefix=paths.boundary_id)}


def score_questions(paths: WorkerPaths, work: tuple[Question, ...]) -> dict[str, Any]:
    """Return `right`, whether each question was answered rightly, and `lm_eval_version`.

    A question that does not fit into the model's context has None.
    """
    from transformers import AutoTokenizer

    from eval.lm_eval_tasks import answer_questions, lm_eval_version

    tokenizer = AutoTokenizer.from_pretrained(paths.tokenizer / HUGGING_FACE, split_special_tokens=True)
    model = _load_model(paths.weights)
    longest = int(model.config.max_position_embeddings)
    fitting = [question for question in work if _count_tokens(question, tokenizer) <= longest]
    answers = iter(answer_questions(fitting, paths.questions, model=model, tokenizer=tokenizer) if fitting else [])
    kept = set(fitting)
    return {"right": [next(answers) if q in kept else None for q in work], "lm_eval_version": lm_eval_version()}


def _count_tokens(question: Question, tokenizer: Any) -> int:
    """Count the tokens of the longest choice after the context, which lm-eval cuts off in the same way."""
    context = len(tokenizer(question.context).input_ids)
    return max(len(tokenizer(question.context + choice).input_ids) - context for choice in question.choices)


@lru_cache(maxsize=1)
def _load_model(weights: ChosenWeights) -> "PreTrainedModel":
    from training.accelerator import find_device_type
    from training.checkpoint.load_model import load_model

    return load_model(*weights.checkpoints, kind=weights.kind).to(find_device_type())
