"""Gradients of the trainer against those of plain PyTorch, for each ZeRO stage and precision.

The engine's gradient is read from AdamW's first moment after one step: (1 - beta1) times the clipped gradient. Plain
PyTorch runs each document by itself, in fp64 on the CPU, with the weights that the engine computes with.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from training.conform.record import Check, attempt, judged
from training.conform.scale import Precision
from training.conform.synthetic_job import EOS, PAD, Bench, make_job, open_trainer, read_inputs, take_step
from training.data.prefetch import StepInput
from training.job import Job
from training.loop.trainer import Trainer
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.zero.fragments import owned_fragments

Gradient = dict[str, torch.Tensor]
"""A tensor (elements,), fp64, on the CPU, by parameter."""

LIMITS: dict[Precision, float] = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest error of a parameter's gradient, relative to its norm. On a CPU it was 2e-6 and 1e-2."""

SCALE_LIMITS: dict[Precision, float] = {"fp32": 1e-5, "bf16": 2e-3}
"""How far the gradient may be too long or too short: rounding averages out of that, and a wrong number of targets or
passes does not."""


def check_gradients(bench: Bench) -> Iterator[Check]:
    """Compare the first gradient in all ZeRO stages and precisions."""
    for precision in bench.scale.precisions:
        for stage in (0, 1, 2, 3):
            name = f"gradient {precision} zero-{stage}"
            yield from attempt(name, partial(_check_stage, bench, name, precision, stage))


def _check_stage(bench: Bench, name: str, precision: Precision, stage: int) -> list[Check]:
    trial = replace(bench.scale.small, precision=precision)
    job = make_job(bench, trial, f"gradient-{precision}-{stage}", zero_stage=stage)
    with open_trainer(bench, job) as trainer:
        weights = gather(trainer, "master")
        (step_input,) = read_inputs(trainer, 1)
        gradient = first_gradient(trainer, step_input)
    return compare_gradients(name, gradient, plain_gradient(job, weights, step_input), precision=precision)


def first_gradient(trainer: Trainer, step_input: StepInput) -> Gradient:
    """Take the first step of an engine, and return the gradient of it before clipping."""
    optimizer = trainer.config.optimizer
    norm = take_step(trainer, step_input).gradient_norm
    unclipped = max(1.0, norm / optimizer.max_gradient_norm)
    moments = gather(trainer, "exp_avg")
    return {name: moment * (unclipped / (1 - optimizer.beta1)) for name, moment in moments.items()}


def plain_gradient(job: Job, weights: Gradient, step_input: StepInput) -> Gradient:
    """Return the gradient of the mean loss over a step's targets, by plain PyTorch."""
    settings = make_model_config(job.config, vocab_size=job.tokenizer.manifest.vocab_size, eos_id=EOS, pad_id=PAD)
    model = build_in_memory(settings, seed=0).double()
    model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        values = weights[name].bfloat16() if job.config.precision == "bf16" else weights[name]
        parameter.data.view(-1).copy_(values)
    for rows, _ in step_input.micro_batches:
        for tokens, length in zip(rows.tokens.cpu(), rows.lengths.tolist(), strict=True):
            _add_gradient(model, tokens[: length + 1], num_targets=step_input.batch.num_targets)
    return {name: p.grad.view(-1) for name, p in model.named_parameters() if p.grad is not None}


def _add_gradient(model: PreTrainedModel, tokens: torch.Tensor, *, num_targets: int) -> None:
    """Add the gradient of a row's share of the loss, each document run by itself: no mask, no packing."""
    last = len(tokens) - 1
    starts = [0, *(place for place in range(1, last) if tokens[place] == EOS), last]
    for start, stop in pairwise(starts):
        if start < stop:
            logits = model(input_ids=tokens[None, start:stop]).logits[0]
            (F.cross_entropy(logits, tokens[start + 1 : stop + 1], reduction="sum") / num_targets).backward()  # type: ignore[no-untyped-call]


def compare_gradients(name: str, found: Gradient, exact: Gradient, *, precision: Precision) -> list[Check]:
    """Return the largest error of any parameter's gradient, and by how much the whole is too long or too short."""
    assert found.keys() == exact.keys()
    errors = {key: float((found[key] - exact[key]).norm() / exact[key].norm()) for key in exact}
    worst = max(errors, key=lambda key: errors[key])
    product = sum(float(found[key] @ exact[key]) for key in exact)
    stretch = product / sum(float(exact[key] @ exact[key]) for key in exact) - 1
    return [
        judged(name, errors[worst], limit=LIMITS[precision], detail=f"relative error; largest in {worst}"),
        judged(f"{name} length", abs(stretch), limit=SCALE_LIMITS[precision], detail="too long or too short by"),
    ]


def gather(trainer: Trainer, kind: str) -> Gradient:
    """Return one kind of what the only rank holds, by parameter."""
    found: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for fragment in owned_fragments(trainer.state.engine):
        found.setdefault(fragment.name, []).append((fragment.offset, fragment.tensors[kind].double().cpu()))
    return {name: torch.cat([piece for _, piece in sorted(pieces)]) for name, pieces in found.items()}
