"""A decoder and how it is trained, as far as memory depends on them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelSize:
    """A decoder, as far as its memory depends on it."""

    num_parameters: int
    """Elements of all parameters, tied ones once."""

    num_trained: int
    num_muon: int
    """Of the trained ones, what Muon updates: one moment an element instead of two."""

    largest_muon: int
    """Elements of the largest of those."""

    largest_matrix: int
    """Elements of the largest trained parameter."""

    largest_layer: int
    """Elements of the largest decoder layer, embedding or output layer."""

    vocab_size: int
    hidden_size: int
    ffn_size: int
    """Width that a token passes through in a feed-forward layer: of all experts that work on it."""

    num_layers: int
    num_heads: int
    head_dim: int
    num_key_value_heads: int
    num_norms: int
    """Norms of the residual stream in a layer."""

    has_head_norm: bool
    """Whether queries and keys are normalised."""


@dataclass(frozen=True)
class Setting:
    """How it is trained, as far as memory depends on it."""

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

    @property
    def width(self) -> int:
        """Bytes of an element of the forward and backward pass."""
        return 2 if self.precision == "bf16" else 4
