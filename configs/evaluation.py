"""The settings of a recipe about evaluation, the export and the report."""

from typing import Annotated, Literal

from pydantic import Field

from configs.base import AddedLater, Config


class MultipleChoiceConfig(Config):
    """The word-order task: which choice is the real text? The second half of a held-out document stands against other
    orders of its words."""

    questions_per_language: int = Field(default=25, ge=1)
    """Largest number of questions for each language."""

    num_choices: int = Field(default=4, ge=2, le=10)
    """Number of choices, including the real text; a guess is right one time in this many."""

    seed: int = 0
    """Seed of the wrong orders and of the position of the real text among the choices."""


class EvaluateConfig(Config):
    """How a model is scored on held-out documents."""

    documents_per_stream: int | None = Field(default=100, ge=1)
    """Largest number of held-out documents of each source and language to compute bits per byte on: those with the
    smallest digests, so that a larger number only adds to them. null: all."""

    multiple_choice: MultipleChoiceConfig | None = MultipleChoiceConfig()
    """The word-order task, which lm-eval scores; null leaves it out."""


class ExportConfig(Config):
    """How the Hugging Face model directory is written."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the exported weights."""

    license: Annotated[str | None, Field(min_length=1, max_length=200), AddedLater()] = None
    """Licence of the model, for its card: an identifier of the Hugging Face Hub, such as `apache-2.0`."""


class ReportConfig(Config):
    """The report: one self-contained HTML file."""

    title: str = "Concord run"
    """Heading of the page."""

    templates: Annotated[str | None, Field(min_length=1), AddedLater()] = None
    """Directory with a `style.css` or jinja2 templates of your own, which take the place of those of the same name in
    `pipeline/report/templates`; relative to the directory the command is run in. They are hashed: an edit makes the
    page anew."""
