"""What the memory of a training depends on: sizes of the model, and how it is trained."""

from dataclasses import dataclass, field
from typing import Literal

from configs.deepspeed import ZeroOptimizationConfig


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a decoder."""

    num_parameters: int
    """Elements of all parameters, tied ones once."""

    num_trained: int
    """Elements of those that are not frozen."""

    num_muon: int
    """Elements of those that Muon updates: one moment an element instead of two."""

    num_averaged: int
    """Elements of those that a moving average is kept of: all that are trained, or none."""

    largest_muon: int
    """Elements of the largest parameter that Muon updates; 0 if there is none."""

    largest_muon_matrix: int
    """Elements of the largest matrix that Muon updates: of one expert, where a parameter has all experts of a layer."""

    muon_of_one_shape: int
    """Elements of all matrices of one shape that Muon updates, of the shape that has the most."""

    largest_matrix: int
    """Elements of the largest trained matrix."""

    largest_layer: int
    """Elements of the largest decoder layer, embedding or output layer."""

    vocab_size: int
    hidden_size: int
    ffn_size: int
    """Width that a token passes through in a feed-forward layer, summed over the experts that work on it."""

    num_layers: int
    num_heads: int
    head_dim: int
    num_key_value_heads: int
    num_norms: int
    """Number of norms of the residual stream in a layer."""

    has_head_norm: bool
    """Whether queries and keys are normalised."""


@dataclass(frozen=True)
class TrainingLayout:
    """How a model is trained."""

    device: str
    """`cuda` or `cpu`."""

    num_ranks: int
    zero_stage: int
    micro_batch_size: int
    sequence_length: int
    precision: Literal["bf16", "fp32"]
    offload_optimizer: bool = False
    activation_checkpointing: bool = False
    attention: str = "sdpa"
    """The implementation, not `auto` (training/sizing/activations.py)."""

    reduce_precision: Literal["fp32", "bf16"] = "fp32"
    zero_optimization: ZeroOptimizationConfig = field(default_factory=ZeroOptimizationConfig)
    """What the pool asks of DeepSpeed's buffers."""

    @property
    def width(self) -> int:
        """Bytes of an element in the forward and backward pass."""
        return 2 if self.precision == "bf16" else 4

    @property
    def reduced_width(self) -> int:
        """Bytes of an element of the gradients while they are summed over ranks."""
        return 2 if self.reduce_precision == "bf16" else 4
