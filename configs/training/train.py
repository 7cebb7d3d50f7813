"""The settings of a recipe about a training as a whole. Placement is in configs/cluster.py and configs/pools.py."""

import math
from bisect import bisect_left
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from configs.base import AddedLater, Config
from configs.evaluation import ValidationConfig
from configs.training.init import InitConfig
from configs.training.mixture import MixtureConfig
from configs.training.model import ModelConfig
from configs.training.optimizer import BatchRampConfig, EmaConfig, OptimizerConfig, Schedule, WsdSchedule


class SpikeConfig(Config):
    """When a rise of the loss is a spike, by the median and the median absolute deviation (MAD) of the last steps."""

    window_steps: int = Field(default=128, ge=16)
    """Number of last steps that the loss is compared with; no step is a spike before half of them have been taken."""

    threshold: float = Field(default=10.0, gt=0)
    """A step is a spike if its loss is more than this many robust standard deviations (1.4826 MAD) above the median."""

    patience_steps: int = Field(default=3, ge=1)
    """Number of spikes in a row after which the run rolls back."""


class StabilityConfig(Config):
    """How a run reacts to instability. A step whose loss or gradient is not finite is skipped: it leaves the weights as
    they are."""

    max_skipped_steps: int = Field(default=3, ge=0)
    """Number of skipped steps in a row that is tolerated; with one more the run rolls back."""

    spikes: SpikeConfig | None = SpikeConfig()
    """When a rise of the loss makes the run roll back; null: never."""

    max_rollbacks: int = Field(default=3, ge=0)
    """How many times the run goes back to a checkpoint from before the instability and leaves out the data that was
    read during it. After that the run fails."""


MAX_PROFILED_STEPS = 20
"""A step of 32 layers in 16 passes takes 150 MB on the way to the disk, and by estimate some times that on GPUs."""


class CadenceConfig(Config):
    """How often a training reports and saves beyond what its recipe asks for. It changes nothing that is made."""

    log_every_steps: int = Field(default=1, ge=1)
    """Optimizer steps that a line of metrics.jsonl, and a row on Weights & Biases, sums up. A line also ends at each
    checkpoint."""

    checkpoint_every_minutes: float | None = Field(default=None, gt=0)
    """Save also when so many minutes have passed since the last checkpoint. Such a checkpoint is there to resume from:
    roll-backs go to those of `checkpoint_every_steps` only, and it is deleted once there is a newer one."""

    gradient_norms_every_steps: Annotated[int | None, Field(ge=1), AddedLater()] = None
    """Every so many optimizer steps, also take the norm of the gradient of each layer, of the embedding and of the
    output layer; null: never."""

    profile_steps: Annotated[tuple[PositiveInt, PositiveInt] | None, AddedLater()] = None
    """The first and the last optimizer step to record with torch.profiler, which takes memory and disk; null: none.
    `concord run --profile` sets it for one run."""

    @field_validator("profile_steps")
    @classmethod
    def _are_few_in_order(cls, steps: tuple[int, int] | None) -> tuple[int, int] | None:
        if steps and steps[1] < steps[0]:
            raise ValueError(f"step {steps[1]} comes before step {steps[0]}; give the first one first")
        if steps and steps[1] - steps[0] >= MAX_PROFILED_STEPS:
            raise ValueError(f"a profile has at most {MAX_PROFILED_STEPS} steps, for its size; give fewer")
        return steps

    @property
    def save_every_seconds(self) -> float:
        """Seconds after the last checkpoint at which one more is saved; infinite if none is."""
        return math.inf if self.checkpoint_every_minutes is None else 60 * self.checkpoint_every_minutes


class TrainConfig(Config):
    """Pre-training of a decoder on packed sequences."""

    model: ModelConfig
    """The network."""

    sequence_length: int = Field(ge=8)
    """Tokens in a sequence; documents are packed end to end, and none attends to another."""

    global_batch_size: int = Field(ge=1)
    """Sequences in an optimizer step, over all ranks."""

    batch_ramp: Annotated[BatchRampConfig | None, AddedLater()] = None
    """A smaller batch in the first steps; null: none."""

    num_steps: int | None = Field(default=None, ge=1)
    """Number of optimizer steps. Give this or num_tokens."""

    num_tokens: Annotated[int | None, Field(ge=1), AddedLater()] = None
    """Number of tokens to train on, in place of num_steps: as many optimizer steps as hold them, the last one whole."""

    optimizer: OptimizerConfig
    """How the weights are updated."""

    schedule: Schedule
    """The learning rate over the steps."""

    ema: Annotated[EmaConfig | None, AddedLater()] = None
    """A moving average of the weights, for `evaluate` and `export`; null: none."""

    mixture: MixtureConfig = MixtureConfig()
    """How often each source and language is drawn."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """Number format of the forward and backward pass; the optimizer's weights and moments are fp32 in both."""

    reduce_precision: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are summed over ranks; each rank adds up its own in fp32 in any case. `bf16`
    halves what is sent, and its error grows with the number of ranks."""

    zero_quantized_weights: Annotated[bool, AddedLater()] = False
    """Gather weights for the passes in 8 bits, as ZeRO++ does (arXiv 2306.10209): a quarter to half of the bytes. Norms
    and other small parameters are gathered exactly, and so are all on one rank. For ZeRO stage 3."""

    zero_quantized_gradients: Annotated[bool, AddedLater()] = False
    """Send gradients to the ranks that own them in 4 bits, as ZeRO++ does; these sum them in fp32. Those of small
    parameters are summed exactly, and so are all on one rank. For ZeRO stage 3."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of the order of the data."""

    checkpoint_every_steps: int = Field(default=500, ge=1)
    """Optimizer steps between the checkpoints that a roll-back may go to. There is always one after the last step."""

    validation: ValidationConfig | None = ValidationConfig()
    """The loss on held-out text while training goes on; null: none."""

    stability: StabilityConfig = StabilityConfig()
    """What happens when the loss is not finite or has spikes."""

    init_from: InitConfig | None = None
    """Weights, or a whole training, to start from; null: random weights."""

    freeze: tuple[str, ...] = ()
    """Patterns, such as `model.layers.*`, of the names of parameters that are not trained."""

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps from the training's start to its end, however the recipe gives it."""
        if self.num_tokens is not None:
            num_samples = -(-self.num_tokens // self.sequence_length)  # a step has one at least
            return bisect_left(range(num_samples + 1), num_samples, key=self.samples_before)
        assert self.num_steps is not None
        return self.num_steps

    def batch_size_at(self, step: int) -> int:
        """Return the sequences in the optimizer step after `step` others."""
        ramp, full = self.batch_ramp, self.global_batch_size
        return full if ramp is None else ramp.batch_size_at(step, full=full)

    def samples_before(self, step: int) -> int:
        """Return the sequences of the first `step` optimizer steps."""
        ramp, full = self.batch_ramp, self.global_batch_size
        return step * full if ramp is None else ramp.samples_before(step, full=full)

    def full_steps_before(self, step: int) -> float:
        """Return how many steps of the whole batch have the sequences of the first `step` ones."""
        return self.samples_before(step) / self.global_batch_size

    @property
    def tokens_to_read(self) -> int:
        """Tokens of all optimizer steps, at a full sequence a sample."""
        return self.samples_before(self.total_steps) * self.sequence_length

    def tokens_after(self, step: int) -> int:
        """Tokens of the optimizer steps after the first `step`."""
        return self.tokens_to_read - self.samples_before(step) * self.sequence_length

    @property
    def validate_every_steps(self) -> int | None:
        """Optimizer steps between two validations; None without any."""
        return None if self.validation is None else self.validation.every_steps or self.checkpoint_every_steps

    @model_validator(mode="after")
    def _batch_grows(self) -> Self:
        if self.batch_ramp is not None and self.batch_ramp.start >= self.global_batch_size:
            raise ValueError(
                f"batch_ramp.start is {self.batch_ramp.start}, and it is to grow to global_batch_size, "
                f"{self.global_batch_size}; lower batch_ramp.start, or leave batch_ramp out"
            )
        return self

    @model_validator(mode="after")
    def _checkpoints_are_validated(self) -> Self:
        every = self.validate_every_steps
        if every and self.checkpoint_every_steps % every:
            raise ValueError(
                f"validation.every_steps is {every}, and checkpoint_every_steps, {self.checkpoint_every_steps}, is no "
                "multiple of it; make it one, so that each checkpoint has a validation loss"
            )
        return self

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if self.num_steps is None and self.num_tokens is None:
            raise ValueError("how long to train is missing; give num_steps or num_tokens")
        if self.num_steps is not None and self.num_tokens is not None:
            raise ValueError(
                f"num_steps ({self.num_steps:,}) and num_tokens ({self.num_tokens:,}) both say how long to train; "
                "leave one out, or set it to null"
            )
        return self

    @model_validator(mode="after")
    def _mixture_lasts(self) -> Self:
        budget, tokens = self.mixture.budget, self.tokens_to_read
        if budget is not None and tokens > budget:
            given = "num_steps" if self.num_tokens is None else "num_tokens"
            raise ValueError(
                f"{self.total_steps:,} steps x global_batch_size x sequence_length are {tokens:,} tokens, and the "
                f"mixture's budget_tokens {budget:,}; lower {given}, or declare what is read after that "
                "(mixture.phases)"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        decay = self.schedule.num_decay_steps if isinstance(self.schedule, WsdSchedule) else 0
        length = self.full_steps_before(self.total_steps)
        if self.schedule.num_warmup_steps + decay > length:
            given = "num_steps" if self.num_tokens is None else f"the {self.num_tokens:,} of num_tokens"
            whole = "" if self.batch_ramp is None else f", or {length:g} whole batches"
            raise ValueError(
                f"the schedule's warm-up and decay take longer than {given} (steps: {self.total_steps:,}{whole})"
            )
        return self

    @model_validator(mode="after")
    def _reduces_no_wider_than_it_computes(self) -> Self:
        if self.precision == "fp32" and self.reduce_precision == "bf16":
            raise ValueError("reduce_precision: bf16 needs precision: bf16; leave it out, or compute in bf16")
        return self
