"""Probes of a model before it is trained: whether it keeps documents apart, and whether its output layer is linear."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from configs.base import UserError

RunModel = Callable[[torch.nn.Module, torch.Tensor], Any]
"""Runs the model or its body on token ids (rows, length), with the documents' positions, and returns its outputs."""

LENGTH, FIRST, SECOND = 16, 6, 10
"""Length of the two rows of a probe, and where the second document of each begins."""

TOLERANCE = 1e-3
"""Largest difference of the same numbers computed in two ways in fp32, relative to the largest of them."""


@contextmanager
def probe_mode(model: PreTrainedModel) -> Iterator[None]:
    """Run `model` in this block without gradients or dropout, and with eager attention if its own must be compiled."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    if attention == "flex_attention":
        model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        if attention == "flex_attention":
            model.set_attn_implementation(attention)


def check_documents_are_separate(run: RunModel, model: PreTrainedModel, *, eos_id: int) -> None:
    """Raise UserError unless a document's hidden states are the same behind another document and alone."""
    separate = False
    if "position_ids" in inspect.signature(model.base_model.forward).parameters:
        ids = (_probe_ids(model, rows=2) + eos_id + 1) % model.config.vocab_size  # no eos among them
        ids[0, FIRST] = ids[1, SECOND] = eos_id
        documents = ((0, FIRST), (1, SECOND))
        packed = run(model.base_model, ids).last_hidden_state
        alone = [run(model.base_model, ids[row : row + 1, start:]).last_hidden_state[0] for row, start in documents]
        separate = all(_is_close(packed[row, start:], alone[row]) for row, start in documents)
    if not separate:
        raise UserError(
            f"architecture {model.config.model_type!r} lets a document see those before it in the sequence, which "
            "would train it on unrelated text; choose one with attention only, such as llama"
        )


def check_router_is_visible(run: RunModel, model: PreTrainedModel) -> None:
    """Raise UserError if the experts' router does not return what the balance term needs."""
    logits = run(model.base_model, _probe_ids(model, rows=1)).router_logits or ()
    top_k = getattr(model.config, "num_experts_per_tok", None)
    shown = isinstance(top_k, int) and all(layer.ndim == 2 and len(layer) == LENGTH for layer in logits)
    # such a bias, as in DeepSeek-V3, chooses others than those with the highest logits
    if not shown or any(name.endswith("e_score_correction_bias") for name in model.state_dict()):
        raise UserError(
            f"architecture {model.config.model_type!r} does not show how its experts are chosen, so that "
            "model.router_balance cannot be kept to; set it to 0"
        )


def has_linear_head(run: RunModel, model: PreTrainedModel) -> bool:
    """Return whether the logits are the output layer's product with the hidden states, but for a soft cap."""
    layer, ids, cap = model.get_output_embeddings(), _probe_ids(model, rows=1), final_softcap(model)
    if type(layer) is not torch.nn.Linear:
        return False
    logits = layer(run(model.base_model, ids).last_hidden_state)
    return _is_close(logits if cap is None else cap * torch.tanh(logits / cap), run(model, ids).logits)


def final_softcap(model: PreTrainedModel) -> float | None:
    """Return the soft cap of the logits, if the model has one (arXiv 2408.00118, section 2)."""
    cap: float | None = getattr(model.config, "final_logit_softcapping", None)
    return cap


def _probe_ids(model: PreTrainedModel, *, rows: int) -> torch.Tensor:
    return torch.arange(rows * LENGTH).view(rows, LENGTH).remainder(model.config.vocab_size)


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())
