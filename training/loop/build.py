"""From a job to an engine that has trained nothing yet."""

import platform
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from training.init.fill import load_initial
from training.job import Job
from training.network.build_model import build_model, compile_layers, model_config
from training.network.packed_lm import Network
from training.zero.engine import make_engine
from training.zero.optimizers import freeze


@dataclass(frozen=True)
class Built:
    """An engine, and what it was made of."""

    engine: Any
    config: PretrainedConfig
    shapes: dict[str, tuple[int, ...]]
    """Of every parameter, by transformers' name; tied ones once."""


def build(job: Job, *, initial: bool, tell: Callable[[str], None]) -> Built:
    """The engine with its first weights: random, or, if `initial`, those that the recipe says to start from."""
    config, placement, tokenizer = job.config, job.placement, job.tokenizer.manifest
    settings = model_config(config, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    if placement.device == "cpu" and config.precision == "bf16" and not _multiplies_bf16():
        tell("this CPU has no instructions for bf16, so steps take many times as long as with `precision: fp32`")
    model = build_model(
        settings,
        seed=config.seed,
        attention=placement.attention,
        activation_checkpointing=placement.activation_checkpointing,
    )
    if initial and config.init_from is not None and config.init_from.mode == "weights":
        for text in load_initial(model, config.init_from, tokenizer=job.tokenizer):
            tell(text)
    freeze(model, config.freeze)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if placement.compile:
        compile_layers(model)
    network = Network(
        model,
        eos_id=tokenizer.eos_id,
        max_tokens=placement.micro_batch_size * config.sequence_length,
        router_balance=config.model.router_balance,
    )
    return Built(make_engine(network, config, placement), settings, shapes)


def _multiplies_bf16() -> bool:
    """Whether matrix products in bf16 are fast on this CPU: they were 5 to 20 times as slow as fp32 where not."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def memory_bytes(device: torch.device) -> int:
    """Most memory this process has held: of the GPU, or resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
