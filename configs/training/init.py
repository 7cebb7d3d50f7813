"""The settings of a recipe about what a training starts from."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from configs.base import AddedLater, ByContent, Config
from configs.paths import PathText


class InitConfig(Config):
    """What training starts from, instead of random weights."""

    path: Annotated[PathText | None, Field(min_length=1), ByContent()] = None
    """A Hugging Face model directory, a checkpoint that Concord wrote, or a `train` or `export` artifact. Left out: the
    training of this recipe that the step names as its input `init`."""

    checkpoint: Annotated[Literal["last", "best"] | PositiveInt, AddedLater()] = "last"
    """Which checkpoint of a training: `last`, `best`, which has the lowest validation loss, or the number of its
    step."""

    mode: Literal["weights", "continue", "new_data"] = "weights"
    """`weights`: a new training from these weights. `continue`: a checkpoint's training goes on, with its optimizer
    state, step count and place in the order of the data, so that no sample is repeated or left out; num_steps and
    num_tokens count from that training's start. `new_data`: a checkpoint's weights and optimizer state go on with other
    data: the order of this recipe's corpus and mixture is read from its first sample."""

    schedule: Annotated[Literal["fresh", "continued"], AddedLater()] = "fresh"
    """For `mode: new_data`. `fresh`: steps count from 0, and the schedule begins with its warm-up. `continued`: the
    step count goes on, so that num_steps or num_tokens and the schedule count from that training's start."""

    tokenizer: Annotated[PathText | None, ByContent()] = None
    """Directory with the `tokenizer.json` that the weights were trained with, if it is not the recipe's. Embedding rows
    of pieces that both tokenizers have are kept; a new piece gets the mean of the rows of the old pieces that spell
    it. Left out: the tokenizer in `path`, if there is one."""

    @model_validator(mode="after")
    def _schedule_is_for_new_data(self) -> Self:
        if self.schedule != "fresh" and self.mode != "new_data":
            raise ValueError(
                f"schedule: {self.schedule} is for mode: new_data; mode: {self.mode} leaves no choice, so leave it out"
            )
        return self
