"""The implementations of attention over packed documents, and which of them this device can run.

`flash_attention_2` and `_3` are packages that a user installs, `varlen` is the flash kernel that PyTorch brings along:
they are told where documents begin, and compute within documents only. `flex_attention` is compiled for a block mask.
`sdpa` and `eager` take a mask over all pairs of positions.
"""

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel, masking_utils
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from training.network.model_rules import why_attention_never_runs
from training.network.packed_rows import PackedRows, document_positions

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before PyTorch 2.10
    varlen_attn = None  # type: ignore[assignment]

BEST_FIRST = ("flash_attention_3", "flash_attention_2", "varlen", "flex_attention", "sdpa", "eager")
"""What `attention: auto` tries, the fastest first."""

_FLASH = BEST_FIRST[:3]
_PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "bf16"}


def why_not_here(name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this device and precision cannot run an implementation, in words; None if it may."""
    if name in ("sdpa", "eager"):
        return None
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    capability = torch.cuda.get_device_capability(device) if is_nvidia else None
    precision = _PRECISIONS.get(dtype, "fp32")
    if reason := why_attention_never_runs(name, device=device.type, precision=precision, capability=capability):
        return reason
    if name == "flex_attention":
        return None
    installed = {
        "flash_attention_3": is_flash_attn_3_available(),
        "flash_attention_2": is_flash_attn_2_available(),
        "varlen": varlen_attn is not None,
    }
    missing = "this PyTorch has none" if name == "varlen" else "its package is not installed"
    return None if installed[name] else missing


def run_packed(module: torch.nn.Module, rows: PackedRows, *, config: Any, boundary_id: int, **options: Any) -> Any:
    """Run a model, or its body, on the inputs of `rows`, with documents kept apart, and return its outputs.

    `config` is the model's. transformers makes masks from the positions, as long as it is given no mask and no cache.
    """
    inputs = rows.inputs
    positions = document_positions(inputs, boundary_id=boundary_id)
    if config._attn_implementation in _FLASH:
        boundaries = rows.boundaries.to(torch.int32)
        torch._dynamo.maybe_mark_dynamic(boundaries, 0)  # else each number of documents would be compiled for
        length = inputs.shape[1]  # no document is longer, and the kernels need no more: a maximum would be waited for
        options |= {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
        options |= {"max_length_q": length, "max_length_k": length}
    return module(input_ids=inputs, position_ids=positions, use_cache=False, **options)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within documents by PyTorch's variable-length kernel, with the signature of transformers' attention.

    Queries, keys and values are (rows, heads, length, head size). Raises NotImplementedError on what the kernel lacks.
    """
    lacking = [name for name in ("softcap", "s_aux") if others.get(name) is not None]
    if dropout or lacking or attention_mask is not None:
        raise NotImplementedError(f"it has no {lacking[0] if lacking else 'dropout' if dropout else 'mask'}")
    rows, _, length, _ = query.shape
    queries, keys, values = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    if narrower := queries.shape[-1] - values.shape[-1]:
        values = torch.nn.functional.pad(values, (0, narrower))
    result: torch.Tensor = varlen_attn(  # type: ignore[assignment]
        queries,
        keys,
        values,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return result.view(rows, length, *result.shape[1:])[..., : value.shape[-1]], None


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Have a model use an implementation. Raises ValueError if transformers lacks it for this architecture."""
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise ValueError(f"it takes {model.config._attn_implementation} instead")


def _always_find_documents(position_ids: torch.Tensor) -> torch.Tensor:
    """Return the number of each token's document in its row, in place of transformers' function of this purpose.

    That one returns None where no row has two documents: it would wait for the GPU to know, and a layer would be
    compiled once with a mask and once without.
    """
    first = position_ids[:, :1] - 1
    return (position_ids.diff(prepend=first, dim=-1) != 1).cumsum(-1)


masking_utils.find_packed_sequence_indices = _always_find_documents
AttentionInterface.register("varlen", varlen_attention)
AttentionMaskInterface.register("varlen", flash_attention_mask)
