"""The FLOPs of a token: those of the model, for its utilisation of a device (MFU), and those that are executed.

The model's are counted as in PaLM (arXiv 2204.02311, appendix B), so that numbers compare with published ones:
recomputed activations do not count, and attention counts every position of the sequence, causal or not.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

SKIPS_PAIRS = ("flash_attention_3", "flash_attention_2", "varlen", "flex_attention")
"""Implementations of attention that compute no pair of positions that the causal mask, or a window, leaves out."""

_LOOKED_UP = re.compile(r"embed|\bwte\b|\bwpe\b|\blm_head\b")
"""Embeddings, whose rows are looked up, and the output layer, which is counted by itself."""


def mfu(tokens_per_second: float, *, flops_per_token: float | None, peak: float | None) -> float | None:
    """Return the share of a device's peak that the model's own FLOPs take; `tokens_per_second` is of one device.

    The peak is that of bf16 in every precision. None if either number is not known.
    """
    return None if flops_per_token is None or peak is None else tokens_per_second * flops_per_token / peak


def flops_per_token(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, sequence_length: int
) -> float | None:
    """Return the FLOPs of the forward and backward pass for a token: 6 N + 12 L H Q T (PaLM, appendix B).

    N are the parameters that a token is multiplied with: all matrices and the output layer, of a layer's experts only
    those that work on the token; not embeddings, norms and biases. L H Q T is, over the layers with attention, query
    heads times head size times the positions attended to: the whole sequence, or the window of a sliding layer.
    A frozen parameter counts like a trained one; scans of linear attention and state-space layers do not count.

    `config` is a decoder's transformers configuration as to_dict() gives it, `shapes` its parameters by name, tied
    ones once. None if the configuration has a kind of attention, or of experts, that this formula does not know.
    """
    spans = _spans(config, sequence_length)
    matrices = _matrix_parameters(config, shapes)
    if spans is None or matrices is None:
        return None
    output: float = config["vocab_size"] * first_value(config, "hidden_size", "n_embd", "d_model")
    return 6.0 * (matrices + output) + 12.0 * _attention_width(config) * sum(spans)


def executed_flops_per_token(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    sequence_length: int,
    attention: str,
    recomputes: bool,
) -> float | None:
    """Return the FLOPs that a forward and backward pass execute for a token: 6 N, and 2 N where layers recompute.

    With activation checkpointing a layer's forward pass is executed twice, the output layer's once (Korthikanti et al.,
    arXiv 2205.05198, section 5 and appendix A); PyTorch leaves out the second time a layer's last product, which is
    counted here. `attention` is an implementation: those with a mask compute all pairs of positions, the others the
    causal half, if a row is one document; all but `eager` compute the pairs' weights again in the backward pass, 2.5
    times the forward pass (FlashAttention-2, arXiv 2307.08691, section 4.1). The rest is as in flops_per_token.
    """
    spans = _spans(config, sequence_length)
    matrices = _matrix_parameters(config, shapes)
    if spans is None or matrices is None:
        return None
    if attention in SKIPS_PAIRS:  # position i sees min(i + 1, window) positions
        spans = [span - span * (span - 1) / (2 * sequence_length) for span in spans]
    else:
        spans = [sequence_length if span else 0 for span in spans]
    forward, backward = 4.0, 8.0 if attention == "eager" else 10.0
    times = 2 if recomputes else 1
    output: float = config["vocab_size"] * first_value(config, "hidden_size", "n_embd", "d_model")
    pairs = _attention_width(config) * sum(spans)
    return (4.0 + 2.0 * times) * matrices + 6.0 * output + (times * forward + backward) * pairs


def _matrix_parameters(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the elements of the matrices that a token is multiplied with, without the output layer."""
    matrices = {name: prod(shape) for name, shape in shapes.items() if _is_matrix(name, shape)}
    routed = sum(size for name, size in matrices.items() if ".experts." in name)
    share = _active_share(config) if routed else 1.0
    return None if share is None else sum(matrices.values()) - routed * (1 - share)


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and not name.endswith("bias") and not _LOOKED_UP.search(name)


def _active_share(config: Mapping[str, Any]) -> float | None:
    """Return the share of the experts that works on a token; None if it is not known."""
    active = first_value(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
    among = first_value(config, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return active / among if active and among else None


def _spans(config: Mapping[str, Any], sequence_length: int) -> list[float] | None:
    """Return the positions that each layer attends to, 0 without attention over positions; None if not known."""
    window = min(config.get("sliding_window") or sequence_length, sequence_length)
    chunk = min(config.get("attention_chunk_size") or sequence_length, sequence_length)
    kinds = config.get("layer_types")
    if kinds is None:
        return [window] * first_value(config, "num_hidden_layers", "n_layer", "n_layers")
    span = {
        "full_attention": sequence_length,
        "sliding_attention": window,
        "chunked_attention": chunk,
        "linear_attention": 0,
        "conv": 0,
    }
    return [span[kind] for kind in kinds] if set(kinds) <= span.keys() else None


def _attention_width(config: Mapping[str, Any]) -> float:
    """Return query heads times the mean of the sizes of a query and a value; 0 without attention."""
    heads: int = first_value(config, "num_attention_heads", "n_head", "n_heads") or 0
    if "qk_nope_head_dim" in config:  # latent attention (DeepSeek-V2, arXiv 2405.04434)
        sizes: list[int] = [config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]]
        return heads * sum(sizes) / 2
    hidden = first_value(config, "hidden_size", "n_embd", "d_model")
    return float(heads * config["head_dim"] if config.get("head_dim") else hidden)


def first_value(config: Mapping[str, Any], *names: str) -> Any:
    """Return the value of the first of these keys that has one; None if none has."""
    return next((config[name] for name in names if config.get(name) is not None), None)
