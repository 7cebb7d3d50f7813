"""Model FLOPs utilisation: what a token costs, what a device can do, and the ratio. Pure arithmetic.

As in PaLM (arXiv 2204.02311, appendix B), so that numbers compare with published ones: recomputed activations do not
count, and attention counts every position of the sequence, causal or not.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

_PEAKS: tuple[tuple[str, float], ...] = (
    # NVIDIA's data sheets; where one gives only the figure "with sparsity", half of it.
    ("NVIDIA GB200", 2500e12),  # GB200 NVL72: 360 PFLOPS sparse for 72
    ("NVIDIA B200", 2250e12),  # HGX B200: 36 PFLOPS sparse for 8
    ("NVIDIA GH200 (480GB|144G HBM3e)", 989e12),  # GH200 Grace Hopper: 1,979 sparse
    ("NVIDIA H200", 989e12),  # H200 SXM: 1,979 sparse
    ("NVIDIA H200 NVL", 835.5e12),  # 1,671 sparse
    ("NVIDIA H100 80GB HBM3", 989e12),  # H100 SXM: 1,979 sparse
    ("NVIDIA H100 NVL", 835.5e12),  # 1,671 sparse
    ("NVIDIA H100 PCIe", 756e12),  # 1,513 sparse
    ("NVIDIA H800", 989e12),  # H800 SXM: 1,979 sparse
    ("NVIDIA H800 PCIe", 756e12),  # 1,513 sparse
    ("NVIDIA A100-SXM4-(40|80)GB", 312e12),
    ("NVIDIA A100-PCIE-40GB|NVIDIA A100 80GB PCIe", 312e12),
    ("NVIDIA A800-SXM4-(40|80)GB|NVIDIA A800 80GB PCIe", 312e12),
    ("NVIDIA A40", 149.7e12),
    ("NVIDIA A30", 165e12),
    ("NVIDIA A10", 125e12),
    ("NVIDIA L40S", 362.05e12),
    ("NVIDIA L40", 181.05e12),
    ("NVIDIA L4", 121e12),  # 242 sparse
    ("NVIDIA RTX A6000", 154.8e12),  # GA102 white paper, fp32 accumulation
    ("NVIDIA GeForce RTX 4090", 165.2e12),  # Ada white paper, fp32 accumulation
    ("NVIDIA GeForce RTX 3090", 71e12),  # GA102 white paper, fp32 accumulation
    # V100 has no bf16; these are fp16.
    ("Tesla V100-SXM[23]-(16|32)GB", 125e12),
    ("Tesla V100-PCIE-(16|32)GB", 112e12),
    # AMD's data sheets. A MI250 or MI250X is two devices, each of half the figure.
    ("AMD Instinct MI325X", 1307.4e12),
    ("AMD Instinct MI300X", 1307.4e12),
    ("AMD Instinct MI300A", 980.6e12),
    ("AMD Instinct MI250X", 191.5e12),
    ("AMD Instinct MI250", 181.05e12),
    ("AMD Instinct MI210", 181e12),
)
"""Dense bf16 FLOPs a second, by the whole name that torch.cuda.get_device_name() gives, as a pattern: a part of a GPU
(MIG), a laptop's or an export model has the name of another GPU within its own."""

_LOOKED_UP = re.compile(r"embed|\bwte\b|\bwpe\b|\blm_head\b")
"""Embeddings, whose rows are looked up, and the output layer, which is counted by itself."""


def peak_flops(device_name: str) -> float | None:
    """Most bf16 FLOPs a second of a device, dense; None if it is not in the table."""
    return next((flops for name, flops in _PEAKS if re.fullmatch(name, device_name)), None)


def mfu(tokens_per_second: float, *, flops_per_token: float | None, peak: float | None) -> float | None:
    """The share of a device's peak that the model's own arithmetic takes: `tokens_per_second` is of one device.

    The peak is that of bf16 in every precision. None if either number is not known.
    """
    return None if flops_per_token is None or peak is None else tokens_per_second * flops_per_token / peak


def flops_per_token(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, sequence_length: int
) -> float | None:
    """FLOPs of the forward and backward pass for a token: 6 N + 12 L H Q T (PaLM, appendix B).

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
    output: float = config["vocab_size"] * _first(config, "hidden_size", "n_embd", "d_model")
    return 6.0 * (matrices + output) + 12.0 * _attention_width(config) * sum(spans)


def _matrix_parameters(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Elements of the matrices that a token is multiplied with, the output layer left out."""
    matrices = {name: prod(shape) for name, shape in shapes.items() if _is_matrix(name, shape)}
    routed = sum(size for name, size in matrices.items() if ".experts." in name)
    share = _active_share(config) if routed else 1.0
    return None if share is None else sum(matrices.values()) - routed * (1 - share)


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and not name.endswith("bias") and not _LOOKED_UP.search(name)


def _active_share(config: Mapping[str, Any]) -> float | None:
    """The share of the experts that works on a token."""
    active = _first(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
    among = _first(config, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return active / among if active and among else None


def _spans(config: Mapping[str, Any], sequence_length: int) -> list[int] | None:
    """Positions that each layer's attention counts; none for a layer without attention over positions."""
    window = min(config.get("sliding_window") or sequence_length, sequence_length)
    chunk = min(config.get("attention_chunk_size") or sequence_length, sequence_length)
    kinds = config.get("layer_types")
    if kinds is None:
        return [window] * _first(config, "num_hidden_layers", "n_layer", "n_layers")
    span = {
        "full_attention": sequence_length,
        "sliding_attention": window,
        "chunked_attention": chunk,
        "linear_attention": 0,
        "conv": 0,
    }
    return [span[kind] for kind in kinds] if set(kinds) <= span.keys() else None


def _attention_width(config: Mapping[str, Any]) -> float:
    """Query heads times the mean of the sizes of a query and a value; 0 without attention."""
    heads: int = _first(config, "num_attention_heads", "n_head", "n_heads") or 0
    if "qk_nope_head_dim" in config:  # latent attention (DeepSeek-V2, arXiv 2405.04434)
        sizes: list[int] = [config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]]
        return heads * sum(sizes) / 2
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    return float(heads * config["head_dim"] if config.get("head_dim") else hidden)


def _first(config: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these keys that has one."""
    return next((config[name] for name in names if config.get(name) is not None), None)
