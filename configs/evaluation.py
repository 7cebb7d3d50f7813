"""The settings of a recipe about evaluation, the export and the report."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from configs.base import AddedLater, Config, Name
from configs.data.sources import Language
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


CONTINUATION = "continuation"
"""The task that is made of the corpora's own held-out documents (eval/tasks/continuation.py)."""


MODELS = ("this", "untrained")
"""What tables call the model that is scored, and the small network that was never trained."""


class EvaluateConfig(CheckpointChoice):
    """How a model is scored: on held-out documents, and by tasks."""

    refused: ClassVar[Mapping[str, str]] = {
        "documents_per_language": "documents are counted by source and language; set `documents_per_stream`",
        "multiple_choice": (
            "the word-order task is gone, since untrained networks scored above chance in it; name tasks instead, such "
            "as `tasks: [continuation]`, which is there if nothing is said"
        ),
        "suite": "there may be several; set `suites: [early]`",
    }

    checkpoints: Literal["chosen", "every"] = "chosen"
    """`every` scores each checkpoint that the recipe asks for besides the chosen one: while the training goes on, the
    newest first, where the step has a pool of its own, else after it."""

    documents_per_stream: int | None = Field(default=100, ge=1)
    """Largest number of held-out documents of each source and language to compute bits per byte on: those with the
    smallest digests, so that a larger number only adds to them. null: all."""

    domains: Mapping[Name, tuple[Name, ...]] = {}
    """Domains, such as `science`, with the sources that belong to each: bits per byte are given for them, too."""

    tasks: tuple[str, ...] = (CONTINUATION,)
    """Tasks: by the names that lm-eval has for them, as paths of lm-eval's YAML files, as `FILE.py:NAME` of a Python
    function, or `continuation`, which is made of held-out documents: which of four texts goes on this one?"""

    suites: tuple[str, ...] = ()
    """Suites of tasks: `early`, `multilingual`, `science`, `safety`, or the path of a YAML file like theirs."""

    languages: tuple[Language, ...] = ()
    """Languages in which tasks of suites are taken. Left out: those of the corpora. Tasks of no language are always."""

    questions_per_task: int | None = Field(default=None, ge=1)
    """Largest number of questions of each task, the first ones; for `continuation` of each language, 100 if this is
    null. null: all."""

    parallel: Annotated[PathText | None, Field(min_length=1)] = None
    """Directory of sentences that say the same in each language, a file a language and a sentence a line, as
    `swh_Latn.txt` or, as FLORES has them, `swh_Latn.devtest`: bits per sentence compare languages. null: none."""

    generations_per_language: int = Field(default=1, ge=0)
    """Held-out documents of each language of which the model goes on the beginning, for people to read: both texts are
    in the artifact, and on the report's page."""

    check_chance: bool = True
    """Also ask a small untrained network in each task of choices: what it does not answer by chance can be answered
    without knowing anything, and is no headline."""

    baselines: Mapping[Name, Annotated[PathText, Field(min_length=1)]] = {}
    """Other models, each a directory of Hugging Face's, by the names that they get in tables: scored on the same. What
    their training read is not known, so no score of theirs is called clean. Their files are hashed."""

    data: Annotated[PathText | None, Field(min_length=1)] = None
    """Directory with the data of the suites' tasks, as `files` of each says, for a cluster without internet. null: from
    the Hugging Face Hub, or its cache."""

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        for key in ("tasks", "suites"):
            given = getattr(self, key)
            if twice := [name for name in given if given.count(name) > 1]:
                raise ValueError(f"{key} names {twice[0]!r} twice; leave one")
        sources = [source for own in self.domains.values() for source in own]
        if repeated := [source for source in sources if sources.count(source) > 1]:
            raise ValueError(f"domains has the source {repeated[0]!r} twice; leave it in one")
        if taken := [name for name in self.baselines if name in MODELS]:
            raise ValueError(
                f"baselines has the name {taken[0]!r}, which tables have for a model of this step's; rename it"
            )
        return self


class ExportConfig(CheckpointChoice):
    """How the Hugging Face model directory is written."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the exported weights."""

    license: Annotated[str | None, Field(min_length=1, max_length=200), AddedLater()] = None
    """Licence of the model, for its card: an identifier of the Hugging Face Hub, such as `apache-2.0`."""


_DeviceType = Annotated[str, Field(pattern="^(cpu|cuda|xpu|hpu)$")]
"""PyTorch's type of a device."""


class ReportConfig(Config):
    """The report: one self-contained HTML file."""

    title: str = "Concord run"
    """Heading of the page."""

    templates: Annotated[PathText | None, Field(min_length=1), AddedLater()] = None
    """Directory with a `style.css`, `sort.js` or jinja2 templates of your own, which take the place of those of the
    same name in `pipeline/report/templates`; relative to the directory the command is run in. They are hashed: an edit
    makes the page anew."""

    prices: Annotated[Mapping[_DeviceType, Annotated[float, Field(ge=0)]], AddedLater()] = {}
    """Price of an hour by device: of a core (`cpu`), of a GPU (`cuda` is NVIDIA's and AMD's, `xpu` Intel's, `hpu`
    Gaudi). With them the page says what the steps cost; without them it says no cost."""

    currency: Annotated[str, Field(min_length=1, max_length=20), AddedLater()] = "USD"
    """What the prices are in."""
