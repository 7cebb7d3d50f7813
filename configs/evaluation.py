"""What a recipe may say about scores, exports and reports."""

from typing import Literal

from pydantic import Field

from configs.base import Config


class MultipleChoiceConfig(Config):
    """Which of these is real text? The second half of a held-out document against other orders of its words."""

    questions_per_language: int = Field(default=25, ge=1)
    """At most this many questions a language."""

    num_choices: int = Field(default=4, ge=2, le=10)
    """Orders to choose from, the real one among them; chance is one over this."""

    seed: int = 0
    """Seed of the wrong orders and of the place of the real one."""


class EvaluateConfig(Config):
    """Scores of a checkpoint on held-out documents."""

    documents_per_language: int | None = Field(default=None, ge=1)
    """At most this many held-out documents a language for bits per byte; all of them if left out."""

    multiple_choice: MultipleChoiceConfig | None = MultipleChoiceConfig()
    """the word-order task, run by lm-eval; null leaves it out."""


class ExportConfig(Config):
    """A Hugging Face model directory."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the exported weights."""


class ReportConfig(Config):
    """One self-contained HTML file."""

    title: str = "Concord run"
    """Heading of the page."""
