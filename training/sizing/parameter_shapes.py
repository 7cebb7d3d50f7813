"""The shape of every parameter of the architectures that share llama's structure, without torch or transformers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from configs.training.model import ModelConfig

Shapes = dict[str, tuple[int, ...]]

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
"""Names of the weights of the input embedding and the output layer; where they are tied there is only the first."""


@dataclass(frozen=True)
class ModelParameters:
    """The parameters of a recipe's model."""

    shapes: Shapes
    """Shape of every parameter by transformers' name, tied ones once."""

    embedding_and_output: frozenset[str]
    """Names of the weights of the input embedding and the output layer."""

    config: Mapping[str, Any]
    """The model's transformers configuration, as far as training/sizing/flops.py reads it."""

    built: bool
    """Whether transformers had to build the model, without memory, to find its shapes."""

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters."""
        return sum(map(prod, self.shapes.values()))


@dataclass(frozen=True)
class _Family:
    """How an architecture that shares llama's structure differs from it, as read from transformers 5.23."""

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Names of the norms of the residual stream in each layer; their weights are vectors of its width."""

    head_dim: int | None = None
    """Default size of a head; None: hidden_size / num_attention_heads."""

    head_norm: str | None = None
    """How queries and keys are normalised: each `head`, or the `whole` row; None: they are not."""

    qkv_bias: bool = False
    mlp_bias: bool = False
    """Whether `mlp_bias` is a key of the configuration."""

    num_experts: int | None = None
    keys: Mapping[str, Any] | None = None
    """Further defaults of the configuration that FLOPs depend on."""


_OLMO = ("post_attention_layernorm", "post_feedforward_layernorm")
_GEMMA = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_MOE = {"moe_intermediate_size": 768, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": []}
_FAMILIES = {
    "llama": _Family(mlp_bias=True),
    "mistral": _Family(keys={"sliding_window": 4096}),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(head_dim=128, head_norm="head"),
    "olmo2": _Family(norms=_OLMO, head_norm="whole"),
    "gemma": _Family(head_dim=256),
    "gemma3_text": _Family(norms=_GEMMA, head_dim=256, head_norm="head", keys={"sliding_window": 4096}),
    "qwen3_moe": _Family(head_norm="head", num_experts=128, keys=_MOE),
}
_KEYS_WITHOUT_SHAPE = {
    "attention_dropout",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_act",
    "hidden_activation",
    "initializer_range",
    "layer_types",
    "max_position_embeddings",
    "norm_topk_prob",
    "num_experts_per_tok",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "router_aux_loss_coef",
    "sliding_window",
}
"""Keys of a configuration that change no shape in these families."""

_SHAPE_KEYS = {"head_dim", "attention_bias"}
_MOE_SHAPE_KEYS = {
    "num_experts",
    "num_local_experts",
    "moe_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
}


def is_known_family(architecture: str) -> bool:
    """Return whether the table has the architecture."""
    return architecture in _FAMILIES


def known_shapes(model: ModelConfig, *, vocab_size: int) -> Shapes | None:
    """Return the shape of every parameter of a model of a family that shares llama's structure.

    None for a model of another family, or with keys whose effect is not known here.
    """
    family = _FAMILIES.get(model.architecture)
    known = _KEYS_WITHOUT_SHAPE | _SHAPE_KEYS
    if family is not None:
        known |= ({"mlp_bias"} if family.mlp_bias else set()) | (_MOE_SHAPE_KEYS if family.num_experts else set())
    if family is None or not model.overrides.keys() <= known:
        return None
    settings = complete_config(model, 0, vocab_size)
    width = model.hidden_size
    shapes: Shapes = {EMBEDDING: (vocab_size, width)}
    for number in range(model.num_layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in _layer(family, settings, number)}
    shapes["model.norm.weight"] = (width,)
    if not model.tie_word_embeddings:
        shapes[OUTPUT] = (vocab_size, width)
    return shapes


def _layer(family: _Family, settings: Mapping[str, Any], number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, head_dim = settings["hidden_size"], settings["head_dim"]
    queries, keys = settings["num_attention_heads"] * head_dim, settings["num_key_value_heads"] * head_dim
    sides = {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, queries)}
    for name, shape in sides.items():
        yield f"self_attn.{name}.weight", shape
        if settings.get("attention_bias") or (family.qkv_bias and name != "o_proj"):
            yield f"self_attn.{name}.bias", shape[:1]
    if family.head_norm:
        whole = family.head_norm == "whole"
        yield "self_attn.q_norm.weight", (queries if whole else head_dim,)
        yield "self_attn.k_norm.weight", (keys if whole else head_dim,)
    yield from _feed_forward(family, settings, number)
    for name in family.norms:
        yield f"{name}.weight", (width,)


def _feed_forward(family: _Family, settings: Mapping[str, Any], number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    if family.num_experts and _has_experts(settings, number):
        count, small = settings["num_experts"], settings["moe_intermediate_size"]
        yield "mlp.gate.weight", (count, width)
        yield "mlp.experts.gate_up_proj", (count, 2 * small, width)
        yield "mlp.experts.down_proj", (count, width, small)
        return
    for name, shape in {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}.items():
        yield f"mlp.{name}.weight", shape
        if settings.get("mlp_bias"):
            yield f"mlp.{name}.bias", shape[:1]


def _has_experts(settings: Mapping[str, Any], number: int) -> bool:
    step = settings["decoder_sparse_step"]
    return number not in settings["mlp_only_layers"] and (number + 1) % step == 0


def complete_config(model: ModelConfig, sequence_length: int, vocab_size: int) -> dict[str, Any]:
    """Return the configuration of a model of a known family, completed as transformers would do it."""
    family = _FAMILIES[model.architecture]
    completed: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads or model.num_attention_heads,
        "head_dim": family.head_dim or model.hidden_size // model.num_attention_heads,
        "max_position_embeddings": sequence_length,
    }
    completed |= family.keys or {}
    completed |= {key: value for key, value in model.overrides.items() if value is not None}
    if family.num_experts:
        given = completed.get("num_experts") or completed.get("num_local_experts")
        completed["num_experts"] = given or family.num_experts
    return completed
