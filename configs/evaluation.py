"""The settings of a recipe about evaluation, the export and the report."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from configs.base import AddedLater, Config
from configs.paths import PathText


class ValidationConfig(Config):
    """The loss on held-out text while training goes on: the same sample each time, which bears no gradient."""

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two validations; checkpoint_every_steps must be a multiple of it. Left out: as many as
    that. There is always one after the last step."""

    max_share: float = Field(default=0.01, gt=0, le=1)
    """Largest share of the time to spend, a forward pass being a third of a step's work: it sets how many sequences are
    validated on. All streams get equally many as far as their held-out text lasts, each at least one, which is shorter
    than the training's if there are too many streams for it."""


class CheckpointChoice(Config):
    """Which weights of a training are taken."""

    checkpoint: Annotated[Literal["last", "best"] | PositiveInt, AddedLater()] = "last"
    """Which checkpoint: `last`, `best`, which has the lowest validation loss, or the number of its step."""

    weights: Annotated[Literal["trained", "ema"], AddedLater()] = "trained"
    """`trained`, or `ema`, the moving average that the training kept beside them."""

    average: Annotated[int, Field(ge=1), AddedLater()] = 1
    """Take the mean over so many checkpoints of checkpoint_every_steps: the chosen one and those before it, which
    retention must have kept."""


class MultipleChoiceConfig(Config):
    """The word-order task: which choice is the real text? The second half of a held-out document stands against other
    orders of its words."""

    questions_per_language: int = Field(default=25, ge=1)
    """Largest number of questions for each language."""

    num_choices: int = Field(default=4, ge=2, le=10)
    """Number of choices, including the real text; a guess is right one time in this many."""

    seed: int = 0
    """Seed of the wrong orders and of the position of the real text among the choices."""


class EvaluateConfig(CheckpointChoice):
    """How a model is scored on held-out documents."""

    refused: ClassVar[Mapping[str, str]] = {
        "documents_per_language": "documents are counted by source and language; set `documents_per_stream`"
    }

    documents_per_stream: int | None = Field(default=100, ge=1)
    """Largest number of held-out documents of each source and language to compute bits per byte on: those with the
    smallest digests, so that a larger number only adds to them. null: all."""

    multiple_choice: MultipleChoiceConfig | None = MultipleChoiceConfig()
    """The word-order task, which lm-eval scores; null leaves it out."""


class ExportConfig(CheckpointChoice):
    """How the Hugging Face model directory is written."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the exported weights."""

    license: Annotated[str | None, Field(min_length=1, max_length=200), AddedLater()] = None
    """Licence of the model, for its card: an identifier of the Hugging Face Hub, such as `apache-2.0`."""


class ReportConfig(Config):
    """The report: one self-contained HTML file."""

    title: str = "Concord run"
    """Heading of the page."""

    templates: Annotated[PathText | None, Field(min_length=1), AddedLater()] = None
    """Directory with a `style.css` or jinja2 templates of your own, which take the place of those of the same name in
    `pipeline/report/templates`; relative to the directory the command is run in. They are hashed: an edit makes the
    page anew."""
