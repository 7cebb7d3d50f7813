"""The settings of a recipe about the optimizer: its update, the learning rate over the steps, averages of weights."""

from typing import Annotated, Literal

from pydantic import Field

from configs.base import Config


class OptimizerConfig(Config):
    """How the weights are updated. Vectors, such as norms and biases, get no weight decay."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`adamw` (Loshchilov and Hutter, arXiv 1711.05101), or `muon` for the matrices inside the layers (Jordan et al.,
    2024, kellerjordan.github.io/posts/muon) with AdamW for embeddings, the output layer and vectors."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""

    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""

    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""

    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of Muon; AdamW does not use it."""

    muon_learning_rate: float = Field(default=0.02, gt=0)
    """Peak learning rate of the matrices that Muon updates; it follows the same schedule."""

    max_gradient_norm: float = Field(default=1.0, gt=0)
    """A global gradient with a larger norm is scaled down to this norm."""


class CosineSchedule(Config):
    """Linear warm-up, then half a cosine down to a floor (arXiv 1608.03983)."""

    kind: Literal["cosine"]
    """Half a cosine."""

    num_warmup_steps: int = Field(ge=0)
    """Optimizer steps of linear warm-up."""

    floor: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the end, as a fraction of the peak."""


class WsdSchedule(Config):
    """Warm-up, stable, decay: linear warm-up, a constant, then a linear decay (arXiv 2404.06395)."""

    kind: Literal["wsd"]
    """Warm-up, stable, decay."""

    num_warmup_steps: int = Field(ge=0)
    """Optimizer steps of linear warm-up."""

    num_decay_steps: int = Field(ge=0)
    """Optimizer steps of the final linear decay."""

    floor: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end, as a fraction of the peak."""


Schedule = Annotated[CosineSchedule | WsdSchedule, Field(discriminator="kind")]


class BatchRampConfig(Config):
    """A batch that grows: small at first, when the gradient's noise is small beside it, then the whole one (arXiv
    2005.14165, appendix B). Step and samples follow from each other, and the schedule of the learning rate goes by
    samples, as if all steps had the whole batch."""

    start: int = Field(ge=1)
    """Sequences in the first step; fewer than global_batch_size."""

    increment: int = Field(ge=1)
    """Sequences that are added at a time, up to global_batch_size."""

    steps_per_increment: int = Field(ge=1)
    """Optimizer steps at each size but the last."""

    def batch_size_at(self, step: int, *, full: int) -> int:
        """Return the sequences of the optimizer step after `step` others, of a global batch size of `full`."""
        return min(full, self.start + self.increment * (step // self.steps_per_increment))

    def samples_before(self, step: int, *, full: int) -> int:
        """Return the sequences of the first `step` optimizer steps: the sum of their sizes, in closed form."""
        num_sizes = min(step // self.steps_per_increment, -(-(full - self.start) // self.increment))
        ramped = num_sizes * self.start + self.increment * num_sizes * (num_sizes - 1) // 2
        size = self.batch_size_at(num_sizes * self.steps_per_increment, full=full)
        return self.steps_per_increment * ramped + (step - num_sizes * self.steps_per_increment) * size


class EmaConfig(Config):
    """An exponential moving average of the weights, beside them: 4 bytes a parameter, in each checkpoint, too. At the
    n-th update its decay is min(decay, (1 + n) / (10 + n)), so that it soon forgets the first weights."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the average that stays at an update of the weights."""
