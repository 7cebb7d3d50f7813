"""The root of a recipe: its steps, how they are connected, and the pools that they run on."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from configs.base import Config, Name
from configs.data.stages import (
    CleanConfig,
    DeduplicateConfig,
    ImportTokenizerConfig,
    TokenizeConfig,
    TrainTokenizerConfig,
)
from configs.evaluation import EvaluateConfig, ExportConfig, ReportConfig
from configs.paths import PathText, no_password
from configs.training.train import CadenceConfig, TrainConfig


class _Step(Config):
    inputs: dict[str, Name | tuple[Name, ...]] = {}
    """For each input of the stage, the name of the step that makes it, or several. A step with several artifacts, such
    as a `clean` with several sources, gives all of them; `STEP.SOURCE` names one."""

    pool: Name = "default"
    """Pool of the cluster file to run on. It is placement, so it is not part of a fingerprint."""

    def given(self, slot: str) -> tuple[str, ...]:
        """Return the names that an input has in the recipe; none if it is left out."""
        names = self.inputs.get(slot, ())
        return (names,) if isinstance(names, str) else names


class CleanStep(_Step):
    """Makes clean documents from sources."""

    stage: Literal["clean"]
    """Read sources, normalise, drop, de-duplicate, hold out."""

    config: CleanConfig
    """The stage's settings."""


class DeduplicateStep(_Step):
    """Finds what of a corpus others have already."""

    stage: Literal["deduplicate"]
    """Find duplicates across sources."""

    config: DeduplicateConfig = DeduplicateConfig()
    """The stage's settings."""


class TrainTokenizerStep(_Step):
    """Makes a tokenizer from clean documents."""

    stage: Literal["train_tokenizer"]
    """Train a SentencePiece tokenizer."""

    config: TrainTokenizerConfig
    """The stage's settings."""


class ImportTokenizerStep(_Step):
    """Makes a tokenizer of the files of another model."""

    stage: Literal["import_tokenizer"]
    """Import the tokenizer of another model."""

    config: ImportTokenizerConfig
    """The stage's settings."""


class TokenizeStep(_Step):
    """Makes token shards from clean documents."""

    stage: Literal["tokenize"]
    """Write token shards."""

    config: TokenizeConfig = TokenizeConfig()
    """The stage's settings."""


class TrainStep(_Step):
    """Trains a model on token shards."""

    stage: Literal["train"]
    """Train a decoder."""

    cadence: CadenceConfig = CadenceConfig()
    """How often to report, and to save for resuming. It is no part of a fingerprint."""

    config: TrainConfig
    """The stage's settings."""

    @model_validator(mode="after")
    def _starts_from_one_training(self) -> Self:
        init, is_input = self.config.init_from, "init" in self.inputs
        if is_input and init is None:
            raise ValueError(
                "inputs.init is there, but no config.init_from, which says what is taken of it; set its mode"
            )
        if is_input and init is not None and init.path is not None:
            raise ValueError("config.init_from.path and inputs.init both say what training starts from; keep one")
        if not is_input and init is not None and init.path is None:
            raise ValueError(
                "config.init_from has no path; give one, or name the training to start from as inputs.init"
            )
        return self

    @model_validator(mode="after")
    def _has_the_steps_to_profile(self) -> Self:
        steps = self.cadence.profile_steps
        if steps and steps[1] > self.config.total_steps:
            raise ValueError(
                f"cadence.profile_steps ends at step {steps[1]}, and the training at {self.config.total_steps}"
            )
        return self


class EvaluateStep(_Step):
    """Scores a trained model."""

    stage: Literal["evaluate"]
    """Score a checkpoint on held-out text."""

    config: EvaluateConfig = EvaluateConfig()
    """The stage's settings."""


class ExportStep(_Step):
    """Exports a trained model to a Hugging Face directory."""

    stage: Literal["export"]
    """Write a Hugging Face model directory."""

    config: ExportConfig = ExportConfig()
    """The stage's settings."""


class ReportStep(_Step):
    """Makes one HTML page of the results of the other steps."""

    stage: Literal["report"]
    """Write the report."""

    config: ReportConfig = ReportConfig()
    """The stage's settings."""


Step = Annotated[
    CleanStep
    | DeduplicateStep
    | TrainTokenizerStep
    | ImportTokenizerStep
    | TokenizeStep
    | TrainStep
    | EvaluateStep
    | ExportStep
    | ReportStep,
    Field(discriminator="stage"),
]


class RunConfig(Config):
    """A recipe: all that decides what is made."""

    name: Name
    """Name of the run."""

    store: Annotated[PathText, AfterValidator(no_password)] = Field(default="store", min_length=1)
    """Directory of the artifacts, relative to the directory the command is run in, or a URL such as
    `s3://bucket/prefix`, of any protocol that fsspec knows."""

    steps: dict[Name, Step] = Field(min_length=1)
    """The steps by name. Each names its stage, its inputs and its settings."""

    outputs: tuple[Name, ...] = ()
    """Steps whose artifacts are wanted. Empty: the steps that no other step takes as input."""

    def origin(self, name: str) -> str | None:
        """Return the step that a name means: its own, or that of `STEP.SOURCE`; None if there is none."""
        while name not in self.steps:
            name, dot, _ = name.rpartition(".")
            if not dot:
                return None
        return name

    def step_of(self, name: str | None) -> Step | None:
        """Return the step that a name means, if there is one."""
        origin = self.origin(name) if name else None
        return None if origin is None else self.steps[origin]

    def first_of(self, name: str, slot: str) -> Step | None:
        """Return the step that makes the first, or the only, artifact of an input; None if there is none."""
        step = self.step_of(name)
        given = step.given(slot) if step else ()
        return self.step_of(given[0]) if given else None
