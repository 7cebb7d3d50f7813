"""Implementations of attention: which of them this device runs, how exact, and how fast."""

from collections.abc import Iterator
from functools import partial

import torch
from transformers import PreTrainedModel

from training.conform.record import Check, attempt, judged
from training.conform.synthetic_job import EOS, PAD, Bench, make_config
from training.conform.timing import median_seconds
from training.network.attention import BEST_FIRST, run_packed, set_attention, why_not_here
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.network.packed_rows import PackedRows, pack_rows
from training.network.probes import EAGER_FACTOR, TOLERANCE

_NUM_LAYERS = 2
_DOCUMENTS_PER_ROW = 4


def check_attention(bench: Bench) -> Iterator[Check]:
    """Run a pass forward and backward of two layers of the large model by each implementation."""
    trial = bench.scale.large
    dtype = torch.bfloat16 if trial.precision == "bf16" else torch.float32
    small = dict(trial.model) | {"num_layers": _NUM_LAYERS}
    config = make_config(trial, model=small, sequence_length=bench.scale.attention_length)
    settings = make_model_config(config, vocab_size=trial.vocab_size, eos_id=EOS, pad_id=PAD)
    model = build_in_memory(settings, seed=0).to(bench.device)
    rows = _make_rows(bench, vocab_size=trial.vocab_size)
    set_attention(model, "eager")
    with torch.no_grad():
        exact = _run(model, rows)
        rounded = _run(model.to(dtype), rows)
    own_error = _error(rounded, exact)
    for name in BEST_FIRST:
        if (reason := why_not_here(name, device=bench.device, dtype=dtype)) is not None:
            yield Check(name=f"attention {name}", detail=reason)
            continue
        yield from attempt(f"attention {name}", partial(_check_one, bench, model, name, rows, exact, own_error))


def _check_one(
    bench: Bench, model: PreTrainedModel, name: str, rows: PackedRows, exact: torch.Tensor, own_error: float
) -> Iterator[Check]:
    set_attention(model, name)
    error = _error(_run(model, rows).detach(), exact)
    detail = f"relative error of hidden states to eager in fp32; eager's own is {own_error:.1e}"
    yield judged(f"attention {name}", error, limit=max(TOLERANCE, EAGER_FACTOR * own_error), detail=detail)

    def work() -> None:
        model.zero_grad()
        _run(model, rows).float().square().sum().backward()  # type: ignore[no-untyped-call]

    seconds = median_seconds(work, bench.device)
    length = rows.inputs.shape[1]
    yield Check(
        name=f"attention {name} time",
        value=1000 * seconds,
        unit="ms",
        detail=f"forward and backward of {_NUM_LAYERS} layers on {length:,} tokens",
    )


def _make_rows(bench: Bench, *, vocab_size: int) -> PackedRows:
    length = bench.scale.attention_length
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, vocab_size, (1, length + 1), generator=generator)
    ends = torch.randperm(length - 1, generator=generator)[: _DOCUMENTS_PER_ROW - 1] + 1
    tokens[0, ends] = EOS
    rows = pack_rows(tokens.numpy(), torch.tensor([length]).numpy(), boundary_id=EOS)
    return PackedRows(*(part.to(bench.device) for part in rows))


def _run(model: PreTrainedModel, rows: PackedRows) -> torch.Tensor:
    states: torch.Tensor = run_packed(model.base_model, rows, config=model.config, boundary_id=EOS).last_hidden_state
    return states


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact).abs().max() / exact.abs().max())
