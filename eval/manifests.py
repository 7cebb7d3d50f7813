"""The manifest of the stage `evaluate`, and the formula of its score."""

import math

from pydantic import BaseModel, ConfigDict

from configs.base import Manifest


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BitsPerByte(_Entry):
    """The bits that the model needs for a byte of UTF-8 text, over a language's held-out documents, or a source's."""

    num_documents: int
    num_bytes: int
    bits_per_byte: float


class Accuracy(_Entry):
    """The number of multiple-choice questions and of right answers."""

    num_questions: int
    num_right: int

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_questions


class MultipleChoice(_Entry):
    """The word-order task, scored by lm-eval (`acc`: the choice with the highest log-likelihood is the answer)."""

    chance: float
    """Accuracy of a guess."""

    total: Accuracy
    by_language: dict[str, Accuracy]
    num_left_out: int
    """Questions that did not fit into the model's context."""

    lm_eval_version: str


class Scores(Manifest):
    """Scores of a model on documents that it was not trained on; `samples.jsonl` holds every answer."""

    step: int
    """The optimizer step whose checkpoint was scored; of a mean over checkpoints the last."""

    bits_per_byte: dict[str, BitsPerByte]
    """Language -> score."""

    bits_per_byte_by_stream: dict[str, BitsPerByte]
    """`source/language` -> score."""

    multiple_choice: MultipleChoice | None

    @property
    def mean_bits_per_byte(self) -> float:
        """The mean over languages, all with the same weight."""
        return sum(score.bits_per_byte for score in self.bits_per_byte.values()) / len(self.bits_per_byte)

    def summary(self) -> str:
        ordered = sorted(self.bits_per_byte, key=lambda language: self.bits_per_byte[language].bits_per_byte)
        best, worst = (f"{lang} {self.bits_per_byte[lang].bits_per_byte:.2f}" for lang in (ordered[0], ordered[-1]))
        line = f"{self.mean_bits_per_byte:.3f} bits a byte over {len(ordered)} languages (best {best}, worst {worst})"
        if (task := self.multiple_choice) is None:
            return line
        return f"{line}; word order {task.total.accuracy:.1%} (chance {task.chance:.0%})"


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Return the bits for each UTF-8 byte of a text whose negative log-likelihood is `nats`.

    The number is comparable between models with different tokenizers, within one language.
    """
    return nats / math.log(2) / num_bytes
