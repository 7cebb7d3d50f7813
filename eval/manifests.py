"""What eval publishes."""

from pydantic import BaseModel, ConfigDict

from configs.base import Manifest


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BitsPerByte(_Entry):
    """Bits the model needs for a byte of UTF-8 text, over a language's held-out documents."""

    num_documents: int
    num_bytes: int
    bits_per_byte: float


class Accuracy(_Entry):
    """Right answers to multiple-choice questions."""

    num_questions: int
    num_right: int

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_questions


class MultipleChoice(_Entry):
    """the word-order task, scored by lm-eval (`acc`: the choice with the highest log-likelihood)."""

    chance: float
    total: Accuracy
    by_language: dict[str, Accuracy]
    num_left_out: int
    """Questions that did not fit into the model's context."""

    lm_eval_version: str


class Scores(Manifest):
    """Scores of a model on documents it was not trained on; `samples.jsonl` holds every answer."""

    bits_per_byte: dict[str, BitsPerByte]
    """By language."""

    multiple_choice: MultipleChoice | None

    @property
    def mean_bits_per_byte(self) -> float:
        """Mean over languages, each counting the same."""
        return sum(score.bits_per_byte for score in self.bits_per_byte.values()) / len(self.bits_per_byte)

    def summary(self) -> str:
        ordered = sorted(self.bits_per_byte, key=lambda language: self.bits_per_byte[language].bits_per_byte)
        best, worst = (f"{lang} {self.bits_per_byte[lang].bits_per_byte:.2f}" for lang in (ordered[0], ordered[-1]))
        line = f"{self.mean_bits_per_byte:.3f} bits a byte over {len(ordered)} languages (best {best}, worst {worst})"
        if (task := self.multiple_choice) is None:
            return line
        return f"{line}; word order {task.total.accuracy:.1%} (chance {task.chance:.0%})"
