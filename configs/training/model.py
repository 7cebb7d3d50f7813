"""The settings of a recipe about the network, and its objective."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from configs.base import AddedLater, Config


class ModelConfig(Config):
    """A decoder, described by keys of its `transformers` configuration."""

    architecture: str = "llama"
    """`model_type` of a causal language model in transformers, for example `llama`, `qwen3` or `olmo2`."""

    hidden_size: int = Field(ge=8)
    """Width of the residual stream."""

    intermediate_size: int = Field(ge=8)
    """Width of the feed-forward layer."""

    num_layers: int = Field(ge=1)
    """Number of decoder layers."""

    num_attention_heads: int = Field(ge=1)
    """Number of query heads."""

    num_key_value_heads: int | None = Field(default=None, ge=1)
    """Number of key and value heads. Left out: as many as query heads."""

    tie_word_embeddings: bool = False
    """Use one matrix for the input embedding and the output layer."""

    depth_scaled_init: Annotated[bool, AddedLater()] = False
    """Draw the first weights of the matrices that write to the residual stream, the output projections of attention and
    feed-forward layers, with a standard deviation smaller by 1 / sqrt(2 x num_layers), so that the stream's variance
    does not grow with depth (GPT-2; Megatron-LM's `scaled_init_method_normal`)."""

    router_balance: float = Field(default=0.01, ge=0)
    """Weight of the load-balancing loss of a mixture of experts; without experts it does nothing."""

    router_balance_by: Literal["batch", "sequence"] = "batch"
    """What experts are to be equally busy over. `batch`: all sequences of a step, so that an expert may be one of a
    language or a subject (arXiv 2501.11873). `sequence`: each by itself, which forbids that, and calls for a far
    smaller weight, such as the 1e-4 of DeepSeek-V3 (arXiv 2412.19437)."""

    router_z: float = Field(default=0.0, ge=0)
    """Weight of the z-loss of the routers, which keeps their logits small; ST-MoE takes 0.001 (arXiv 2202.08906)."""

    output_z: float = Field(default=0.0, ge=0)
    """Weight of the z-loss of the output layer, the squared log of its softmax's denominator; PaLM takes 1e-4 (arXiv
    2204.02311, section 5)."""

    overrides: dict[str, JsonValue] = {}
    """Further keys of the transformers configuration, by their names there."""
