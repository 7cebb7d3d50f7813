"""Builds the engine of a job: its model, with its first weights, in DeepSpeed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from training.init.fill import fill_from_init
from training.job import Job
from training.network.build_model import build_model, compile_layers, make_model_config
from training.network.packed_lm import PackedLM
from training.zero.engine import make_engine
from training.zero.optimizers import freeze_parameters


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and the model in it."""

    engine: Any
    """DeepSpeed's engine."""

    config: PretrainedConfig
    shapes: dict[str, tuple[int, ...]]
    """Shape of every parameter by transformers' name; tied ones once."""


def build_engine(job: Job, *, fills_weights: bool, notify: Callable[[str], None]) -> BuiltEngine:
    """Build an engine that has trained nothing yet. Collective.

    Its weights are random, or, with `fills_weights`, those that the recipe's `init_from: {mode: weights}` names, if it
    has one. `notify` passes a sentence to the user.
    """
    config, placement, tokenizer = job.config, job.placement, job.tokenizer.manifest
    settings = make_model_config(
        config, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id
    )
    if placement.device == "cpu" and config.precision == "bf16" and not _has_fast_bf16():
        notify("this CPU has no instructions for bf16, so steps take many times as long as with `precision: fp32`")
    model = build_model(
        settings,
        seed=config.seed,
        attention=placement.attention,
        activation_checkpointing=placement.activation_checkpointing,
    )
    if fills_weights and config.init_from is not None and config.init_from.mode == "weights":
        for text in fill_from_init(model, config.init_from, tokenizer=job.tokenizer):
            notify(text)
    freeze_parameters(model, config.freeze)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if placement.compile:
        compile_layers(model)
    network = PackedLM(
        model,
        eos_id=tokenizer.eos_id,
        max_tokens=placement.micro_batch_size * config.sequence_length,
        router_balance=config.model.router_balance,
    )
    return BuiltEngine(make_engine(network, config, placement), settings, shapes)


def _has_fast_bf16() -> bool:
    """Return whether this CPU multiplies matrices fast in bf16; others took 5 to 20 times as long as in fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
