"""Builds the engine of a job: its model, without weights, in DeepSpeed; and says what its first weights are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig

from cluster.placement import Placement
from configs.base import GIB, UserError
from training.init.fill import open_init_weights
from training.job import Job
from training.network.attention import set_attention
from training.network.build_model import build_model
from training.network.compile import compile_layers
from training.network.initial_weights import InitialWeights
from training.network.model_config import make_model_config
from training.network.packed_lm import PackedLM, minds_router
from training.network.probes import NetworkTraits, describe_attention, probe_network
from training.sizing.activations import expected_attention
from training.sizing.fit import choose_layout, needed_bytes
from training.sizing.recipe_size import find_parameters, measure_model
from training.zero.engine import make_engine
from training.zero.fragments import ReadWeights
from training.zero.optimizers import freeze_parameters
from training.zero.process_group import from_rank_0


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and the model in it."""

    engine: Any
    """DeepSpeed's engine."""

    config: PretrainedConfig
    shapes: dict[str, tuple[int, ...]]
    """Shape of every parameter by transformers' name; tied ones once."""

    traits: NetworkTraits
    initial_weights: InitialWeights


def build_engine(job: Job, device: torch.device, *, member: int = 0, notify: Callable[[str], None]) -> BuiltEngine:
    """Build an engine that has trained nothing yet and whose weights are zeros. Collective.

    They become those of a checkpoint, or the first ones (`open_first_weights`). `member` is that of the pool which this
    rank is of; `notify` passes a sentence to the user.
    """
    config, placement, tokenizer = job.config, job.placement.of_member(member), job.tokenizer.manifest
    if placement.device == "cpu" and config.precision == "bf16" and not _has_fast_bf16():
        notify("this CPU has no instructions for bf16, so steps take many times as long as with `precision: fp32`")
    settings = make_model_config(
        config,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
    )
    probe = partial(
        probe_network,
        settings,
        attention=placement.attention,
        device=device,
        dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32,
        minds_router=minds_router(config.model),
    )
    traits = probe() if job.placement.members else from_rank_0(probe)  # unlike devices have unlike kernels
    notify(f"attention: {describe_attention(traits)}")
    _check_it_fits(job, placement, traits.attention)
    model, initial_weights = build_model(settings, activation_checkpointing=placement.activation_checkpointing)
    if config.model.depth_scaled_init:
        initial_weights.scale_residual_outputs(config.model.num_layers)
    set_attention(model, traits.attention)
    freeze_parameters(model, config.freeze)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if placement.compile:
        compile_layers(model)
    network = PackedLM(
        model,
        boundary_id=tokenizer.boundary_id,
        max_tokens=job.placement.largest_micro_batch * config.sequence_length,
        config=config.model,
        traits=traits,
    )
    engine = make_engine(network, config, placement, device=device)
    return BuiltEngine(engine, settings, shapes, traits, initial_weights)


def _check_it_fits(job: Job, placement: Placement, attention: str) -> None:
    """Raise UserError if a training that was planned with another implementation of attention does not fit with it."""
    config = job.config
    if placement.memory_bytes_per_rank is None or attention == expected_attention(config, placement):
        return
    size = measure_model(find_parameters(config, vocab_size=job.tokenizer.manifest.vocab_size), config)
    fit = choose_layout(size, config, replace(placement, attention=attention, leaves_open=()))
    if not fit.chosen.fits:
        raise UserError(
            f"with attention {attention!r}, which this architecture needs here, a rank needs "
            f"{needed_bytes(fit.chosen, placement.device) / GIB:.2f} GiB with headroom, and has "
            f"{placement.memory_bytes_per_rank / GIB:.2f} GiB; {fit.remedy}"
        )


@contextmanager
def open_first_weights(job: Job, built: BuiltEngine, *, notify: Callable[[str], None]) -> Iterator[ReadWeights]:
    """Open the weights that training begins with: random, or those of the recipe's `init_from: {mode: weights}`.

    Raises UserError if those do not fit the model.
    """
    init = job.config.init_from
    if init is None or init.mode != "weights":
        yield partial(built.initial_weights.draw, job.config.seed)
        built.initial_weights.release()
        return
    model, _ = build_model(built.config)  # the engine's has other shapes where it is sharded
    with open_init_weights(model, init, tokenizer=job.tokenizer) as weights:
        for text in weights.notices:
            notify(text)
        yield weights.read


def _has_fast_bf16() -> bool:
    """Return whether this CPU multiplies matrices fast in bf16; others took 5 to 20 times as long as in fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
