"""Builds the engine of a job: its model, with its first weights, in DeepSpeed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

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

    With `fills_weights` its weights are those that training begins with (`build_first_model`); without they mean
    nothing, since a checkpoint will be loaded. `notify` passes a sentence to the user.
    """
    config, placement, tokenizer = job.config, job.placement, job.tokenizer.manifest
    if placement.device == "cpu" and config.precision == "bf16" and not _has_fast_bf16():
        notify("this CPU has no instructions for bf16, so steps take many times as long as with `precision: fp32`")
    settings = _model_config(job)
    model = build_first_model(job, notify=notify) if fills_weights else _build_model(job, settings)
    freeze_parameters(model, config.freeze)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if placement.compile:
        compile_layers(model)
    network = PackedLM(
        model,
        eos_id=tokenizer.eos_id,
        max_tokens=placement.micro_batch_size * config.sequence_length,
        config=config.model,
    )
    return BuiltEngine(make_engine(network, config, placement, keeps_weights=fills_weights), settings, shapes)


def build_first_model(job: Job, *, notify: Callable[[str], None]) -> PreTrainedModel:
    """Build the model, in fp32 on the host, with the weights that training begins with, the same on every rank.

    They are random, or those that the recipe's `init_from: {mode: weights}` names.
    """
    init = job.config.init_from
    model = _build_model(job, _model_config(job))
    if init is not None and init.mode == "weights":
        for text in fill_from_init(model, init, tokenizer=job.tokenizer):
            notify(text)
    return model


def _model_config(job: Job) -> PretrainedConfig:
    tokenizer = job.tokenizer.manifest
    return make_model_config(
        job.config, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id
    )


def _build_model(job: Job, settings: PretrainedConfig) -> PreTrainedModel:
    placement = job.placement
    return build_model(
        settings,
        seed=job.config.seed,
        attention=placement.attention,
        activation_checkpointing=placement.activation_checkpointing,
    )


def _has_fast_bf16() -> bool:
    """Return whether this CPU multiplies matrices fast in bf16; others took 5 to 20 times as long as in fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
