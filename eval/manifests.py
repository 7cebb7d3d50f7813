"""The manifest of the stage `evaluate`."""

from collections.abc import Mapping
from math import nan
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.base import Manifest


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BitsPerByte(_Entry):
    """The bits that the model needs for a byte of UTF-8 text, and for the ends of documents, over held-out documents.

    It is what metrics.jsonl and validation give. Within a language it compares models with other tokenizers.
    """

    num_documents: int
    num_bytes: int
    bits_per_byte: float
    low: float | None
    """The 95% interval by bootstrap over documents; None with fewer than two."""

    high: float | None


class TaskScore(_Entry):
    """A task, as the model answered it in one language."""

    task: str
    family: str
    """The task without its language: `belebele` of `belebele_swh_Latn`; means over languages are of families."""

    language: str
    """Label of the language; `und` if the task is of none, or of several."""

    suite: str
    kind: str
    formulation: str
    metric: str
    version: str
    """Version of what the suite says of the task, and lm-eval's of the task itself."""

    num_questions: int
    num_truncated: int
    """Requests, of which a choice has one, that were longer than the model's context: their beginning was cut off."""

    value: float | None
    """The score; None if the task failed."""

    low: float | None
    """The 95% interval: Wilson's, with errors by clusters, or of what is no mean by bootstrap; None if nothing can be
    said of it."""

    high: float | None
    higher_is_better: bool = True
    """Whether a higher score is a better one."""

    chance: float | None
    """Score of a guess; None where nothing is chosen."""

    detectable: float | None
    """The least difference to another model that so many questions show, at 5% with a power of 80%; None where answers
    do not vary, so that nothing is known of it, where none shows that there can be, and of a score that is no mean."""

    digest: str
    """SHA-256 over the questions."""

    licence: str
    source: str
    is_decontaminated: bool
    """Whether the corpora's masks have a receipt for it: its questions were looked for in what the model read, and what
    had one was left out. Else the score is not called clean."""

    failure: str
    """Why it could not be scored, in a sentence; empty if it was."""

    @model_validator(mode="before")
    @classmethod
    def _of_no_family(cls, data: Any) -> Any:
        """Read a row from before there were families: each is one of its own."""
        return data | {"family": data["task"]} if isinstance(data, dict) and "family" not in data else data


class BitsPerSentence(_Entry):
    """The bits that the model takes for a sentence, over sentences that say the same in each language.

    Unlike bits per byte it compares languages, and models with other tokenizers across languages.
    """

    num_sentences: int
    bits_per_sentence: float
    low: float | None
    """The 95% interval by bootstrap over sentences; None with fewer than two."""

    high: float | None


class CheckpointScores(_Entry):
    """What a checkpoint scored while the training went on, or after it."""

    step: int
    num_tokens: int
    """Tokens that it was trained on."""

    bits_per_byte: dict[str, float]
    """By language."""

    tasks: dict[str, float]
    """Mean over languages of each task that was scored."""

    num_languages: dict[str, int] = Field(default_factory=dict)
    """How many languages each of these means is over; empty in manifests that were written before it was there."""

    failed: dict[str, str] = Field(default_factory=dict)
    """Task -> why it could not be scored, in a sentence."""

    failure: str
    """Why it could not be scored, in a sentence; empty if it was."""


class BaselineScores(_Entry):
    """What another model scored on the same."""

    precision: str
    bits_per_byte: dict[str, BitsPerByte]
    """Language -> score."""

    tasks: tuple[TaskScore, ...]
    bits_per_sentence: dict[str, BitsPerSentence] = Field(default_factory=dict)
    failure: str = ""
    """Why it could not be scored, in a sentence; empty if it was."""


class Scores(Manifest):
    """Scores of a model on what it was not trained on; `samples/` holds every answer."""

    step: int
    """The optimizer step whose checkpoint was scored; of a mean over checkpoints the last."""

    precision: str
    """Number format of the weights while they were scored, which scores hang on."""

    bits_per_byte: dict[str, BitsPerByte]
    """Language -> score."""

    bits_per_byte_by_stream: dict[str, BitsPerByte]
    """`source/language` -> score."""

    bits_per_byte_by_domain: dict[str, BitsPerByte]
    """Domain of the recipe -> score."""

    tasks: tuple[TaskScore, ...]
    """In the order of the recipe; one that was made of the corpora in each language has a row for each."""

    lm_eval_version: str
    """Empty if no task was scored."""

    languages: tuple[str, ...] = ()
    """The languages in which scores were wanted: those of the corpora, or of the recipe. A task that lacks some of them
    does not cover them."""

    bits_per_sentence: dict[str, BitsPerSentence] = Field(default_factory=dict)
    """Language -> score on parallel sentences; empty if the recipe names none."""

    untrained: tuple[TaskScore, ...] = ()
    """What a small untrained network scored in the tasks in which a guess has a score: where that is not chance, a task
    can be answered without knowing anything, and is no headline."""

    baselines: dict[str, BaselineScores] = Field(default_factory=dict)
    """Other models by the recipe's names; `baselines/NAME/samples/` has their answers."""

    curve: tuple[CheckpointScores, ...] = ()
    """Each checkpoint that was scored, in the order of steps; empty if the chosen one alone was. `ledger.jsonl` has
    every row."""

    @property
    def mean_bits_per_byte(self) -> float:
        """The mean over languages, all with the same weight; NaN if no held-out document was scored."""
        if not self.bits_per_byte:
            return nan
        return sum(score.bits_per_byte for score in self.bits_per_byte.values()) / len(self.bits_per_byte)

    def summary(self) -> str:
        ordered = sorted(self.bits_per_byte, key=lambda language: self.bits_per_byte[language].bits_per_byte)
        line = "no held-out document was scored"
        if ordered:
            best, worst = (f"{lang} {self.bits_per_byte[lang].bits_per_byte:.2f}" for lang in (ordered[0], ordered[-1]))
            mean = f"{self.mean_bits_per_byte:.3f} bits a byte"
            line = f"{mean} over {len(ordered)} languages (best {best}, worst {worst})"
        for name, (value, chance, number) in mean_scores(self.tasks).items():
            guess = "" if chance is None else f", chance {chance:.0%}"
            over = f" over {number} languages" if number > 1 else ""
            line += f"; {name} {value:.1%}{over}{guess}" if chance is not None else f"; {name} {value:.3f}{over}"
        if failed := [score.task for score in self.tasks if score.failure]:
            line += f"; {len(failed)} tasks failed: {', '.join(failed[:3])}{' ...' if len(failed) > 3 else ''}"
        return line


def mean_scores(tasks: tuple[TaskScore, ...]) -> Mapping[str, tuple[float, float | None, int]]:
    """Return for each task, by its name without its language, the mean over languages, that of chance, and how many."""
    groups: dict[str, list[TaskScore]] = {}
    for score in tasks:
        if score.value is not None:
            groups.setdefault(score.family, []).append(score)
    found = {}
    for name, own in groups.items():
        chances = [score.chance for score in own if score.chance is not None]
        values = [score.value for score in own if score.value is not None]
        found[name] = (sum(values) / len(own), sum(chances) / len(own) if len(chances) == len(own) else None, len(own))
    return found
