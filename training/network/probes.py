"""Probes of an architecture before it is trained, on a copy with few layers and a small vocabulary.

They tell whether it looks ahead, whether it keeps packed documents apart, whether its output layer is linear, and which
implementation of attention gives right numbers on this device. Layers keep their full width. One copy is enough for all
ranks: rank 0 probes.
"""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from configs.base import UserError
from configs.text import one_line
from training.network.attention import BEST_FIRST, run_packed, set_attention, why_not_here
from training.network.build_model import build_in_memory, build_model
from training.network.model_rules import refuse_attention
from training.network.packed_rows import PackedRows, pack_rows

LENGTH, FIRST, SECOND = 16, 6, 10
"""Length of the two rows of a probe, and where the second document of each begins."""

TOLERANCE = 1e-3
"""Largest difference of the same numbers computed in two ways in fp32, relative to the largest of them."""

EAGER_FACTOR = 3.0
"""An implementation of attention may be off from `eager` in fp32 by so many times what `eager` in the precision of the
training is."""

_VOCAB_SIZE, _EOS = 256, 1
"""Those of the copy. No probe depends on them, and an embedding may have a billion elements."""


@dataclass(frozen=True)
class NetworkTraits:
    """What the probes found."""

    attention: str
    """The implementation of attention to train with."""

    why_not_better: tuple[tuple[str, str], ...]
    """Each faster implementation, and why it is not taken; empty where the pool names one."""

    has_linear_head: bool
    """Whether the logits are the output layer's product with the hidden states, but for a soft cap."""

    shows_routers: bool
    """Whether experts' routers return the logits that losses on them need; false without experts."""


def probe_network(
    settings: PretrainedConfig, *, attention: str, device: torch.device, dtype: torch.dtype, minds_router: bool
) -> NetworkTraits:
    """Probe the architecture of `settings`, to be trained on `device` in `dtype` with `attention`, which may be `auto`.

    With `minds_router` experts' routers must return their logits. Raises UserError on what cannot be trained so.
    """
    model = _make_copy(settings)
    try:
        has_linear_head, shows_routers = _probe_architecture(model, minds_router=minds_router)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"a pass of the recipe's model fails ({one_line(error)[:300]}); correct the sizes in `model`"
        ) from error
    chosen, why_not_better = _choose_attention(model, attention, device=device, dtype=dtype)
    return NetworkTraits(chosen, why_not_better, has_linear_head, shows_routers)


def check_architecture(settings: PretrainedConfig, *, minds_router: bool) -> None:
    """Check on the CPU, in fp32, what of an architecture does not depend on its sizes, as `probe_network` does.

    `settings` may have smaller sizes than the recipe's. Raises UserError on what cannot be trained; what a pass of this
    model raises shows nothing of the recipe's.
    """
    try:
        model = _make_copy(settings)
    except UserError:
        return
    with suppress(RuntimeError, ValueError, TypeError, IndexError):
        _probe_architecture(model, minds_router=minds_router)


def _probe_architecture(model: PreTrainedModel, *, minds_router: bool) -> tuple[bool, bool]:
    """Return whether the head is linear, and whether routers show themselves. Raises UserError, and what passes do."""
    shows_routers = "router_logits" in (model.base_model._can_record_outputs or {})
    _check_causal(model)
    _check_documents_are_separate(model)
    if shows_routers and minds_router:
        _check_router_is_visible(model)
    return _has_linear_head(model), shows_routers


def describe_attention(traits: NetworkTraits) -> str:
    """Say which implementation is taken, and why no faster one: `sdpa (varlen, flex_attention: needs a GPU)`."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in traits.why_not_better:
        by_reason.setdefault(reason, []).append(name)
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return traits.attention + (f" ({'; '.join(reasons)})" if reasons else "")


def final_softcap(config: PretrainedConfig) -> float | None:
    """Return the soft cap of the logits, if the model has one (arXiv 2408.00118, section 2)."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return cap


def _make_copy(settings: PretrainedConfig) -> PreTrainedModel:
    """Make a model of the first layers, at least two and one of each kind, with random weights in fp32 on the CPU."""
    whole, _ = build_model(settings)
    small = deepcopy(settings)
    num_layers = settings.num_hidden_layers
    kept = _num_layers_of_all_kinds(whole, settings)
    for name, value in vars(settings).items():
        if isinstance(value, list | tuple) and len(value) == num_layers:
            setattr(small, name, value[:kept])
        elif name.endswith("token_id") and isinstance(value, int):
            setattr(small, name, min(value, _EOS))
    small.num_hidden_layers, small.vocab_size = kept, min(settings.vocab_size, _VOCAB_SIZE)
    if hasattr(small, "initializer_range"):  # activations of about one, or a leak would drown in what bf16 rounds
        small.initializer_range = max(small.initializer_range, small.hidden_size**-0.5)
    return build_in_memory(small, seed=0).eval()


def _num_layers_of_all_kinds(model: PreTrainedModel, settings: PretrainedConfig) -> int:
    """Return how many of the first layers, at least two, have one of each kind: by parameters and by configuration."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    num_layers: int = settings.num_hidden_layers
    by_layer = [value for value in vars(settings).values() if isinstance(value, list) and len(value) == num_layers]
    kinds: list[Any] = [
        ({name: tuple(p.shape) for name, p in layer.named_parameters()}, [value[number] for value in by_layer])
        for number, layer in enumerate(layers[:num_layers])
    ]
    last_new = max((number for number, kind in enumerate(kinds) if kind not in kinds[:number]), default=num_layers)
    return min(num_layers, max(2, last_new + 1))


@torch.no_grad()
def _check_causal(model: PreTrainedModel) -> None:
    """Raise UserError on a model that attends to later tokens, as encoders do: its losses would mean nothing."""
    ids = torch.arange(8)[None] % model.config.vocab_size
    other = ids.clone()
    other[0, -1] = model.config.vocab_size - 1
    seen, unseen = model(input_ids=ids).logits[:, :-1], model(input_ids=other).logits[:, :-1]
    if not torch.allclose(seen, unseen, atol=1e-5):
        raise UserError(
            f"architecture {model.config.model_type!r} looks at tokens to come, so it is no decoder; choose a decoder, "
            "such as llama, or see whether `overrides: {is_decoder: true}` makes it one"
        )


@torch.no_grad()
def _check_documents_are_separate(model: PreTrainedModel) -> None:
    """Raise UserError unless a document's hidden states are the same behind another document and alone."""
    separate = False
    if "position_ids" in inspect.signature(model.base_model.forward).parameters:
        ids = _packed_ids(model)
        documents = ((0, FIRST), (1, SECOND))
        packed = _run(model.base_model, model, ids).last_hidden_state
        alone = [_run(model.base_model, model, ids[row : row + 1, at:]).last_hidden_state[0] for row, at in documents]
        separate = all(_is_close(packed[row, at:], alone[n]) for n, (row, at) in enumerate(documents))
    if not separate:
        raise UserError(
            f"architecture {model.config.model_type!r} lets a document see those before it in the sequence, which "
            "would train it on unrelated text; choose one with attention only, such as llama"
        )


@torch.no_grad()
def _check_router_is_visible(model: PreTrainedModel) -> None:
    """Raise UserError if the experts' router does not return what the balance term needs."""
    logits = _run(model.base_model, model, _packed_ids(model)[:1], output_router_logits=True).router_logits or ()
    top_k = getattr(model.config, "num_experts_per_tok", None)
    shown = isinstance(top_k, int) and all(layer.ndim == 2 and len(layer) == LENGTH for layer in logits)
    # such a bias, as in DeepSeek-V3, chooses others than those with the highest logits
    if not shown or any(name.endswith("e_score_correction_bias") for name in model.state_dict()):
        raise UserError(
            f"architecture {model.config.model_type!r} does not show how its experts are chosen, so that "
            "model.router_balance cannot be kept to; set it to 0"
        )


@torch.no_grad()
def _has_linear_head(model: PreTrainedModel) -> bool:
    layer, ids, cap = model.get_output_embeddings(), _packed_ids(model), final_softcap(model.config)
    if type(layer) is not torch.nn.Linear:
        return False
    logits = layer(_run(model.base_model, model, ids).last_hidden_state)
    return _is_close(logits if cap is None else cap * torch.tanh(logits / cap), _run(model, model, ids).logits)


def _choose_attention(
    model: PreTrainedModel, wanted: str, *, device: torch.device, dtype: torch.dtype
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the wanted implementation, or of `auto` the first that passes, and why each before it does not.

    Raises UserError if none does.
    """
    names: Sequence[str] = BEST_FIRST if wanted == "auto" else (wanted,)
    rejected: list[tuple[str, str]] = []
    for name in names:
        problem = why_not_here(name, device=device, dtype=dtype) or _why_wrong(model, name, device=device, dtype=dtype)
        if problem is None:
            return name, tuple(rejected)
        rejected.append((name, problem))
    reasons = "; ".join(f"{name} {problem}" for name, problem in rejected)
    if wanted == "auto":
        raise UserError(f"no implementation of attention can train architecture {model.config.model_type!r}: {reasons}")
    raise UserError(refuse_attention(reasons))


def _why_wrong(model: PreTrainedModel, name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why an implementation does not do for `model`, by a pass forward and backward; None if it does.

    It may be off by EAGER_FACTOR.
    """
    before, ids = model.config._attn_implementation, _packed_ids(model).to(device)
    try:
        set_attention(model, name)
        with torch.no_grad():
            set_attention(model, "eager")
            exact = _run(model.to(device, torch.float32).base_model, model, ids).last_hidden_state
            rounded = _run(model.to(dtype).base_model, model, ids).last_hidden_state
        set_attention(model, name)
        found = _run(model.base_model, model, ids).last_hidden_state
        found.float().square().sum().backward()
    except (ValueError, RuntimeError, NotImplementedError, AssertionError, TypeError, ImportError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"fails here ({one_line(error)[:200]})"
    finally:
        model.zero_grad()
        model.to("cpu", torch.float32)
        set_attention(model, before)
    allowed = max(TOLERANCE * float(exact.abs().max()), EAGER_FACTOR * float((rounded.float() - exact).abs().max()))
    return None if float((found.detach().float() - exact).abs().max()) <= allowed else "gives other numbers than eager"


def _packed_ids(model: PreTrainedModel) -> torch.Tensor:
    """Return two rows of ids with two documents each, which end at other places."""
    ids: torch.Tensor = (
        torch.arange(2 * LENGTH).view(2, LENGTH) + _EOS + 1
    ) % model.config.vocab_size  # no eos among them
    ids[0, FIRST] = ids[1, SECOND] = _EOS
    return ids


def _run(module: torch.nn.Module, model: PreTrainedModel, ids: torch.Tensor, **options: Any) -> Any:
    """Run the model or its body on token ids (rows, length)."""
    tokens = torch.cat([ids, ids[:, :1]], dim=1).cpu().numpy()
    rows = pack_rows(tokens, np.full(len(ids), ids.shape[1]), boundary_id=_EOS)
    on_device = PackedRows(*(part.to(ids.device) for part in rows))
    return run_packed(module, on_device, config=model.config, boundary_id=_EOS, **options)


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())
