"""Chooses the ZeRO stage, micro-batch and accumulation of a training on a pool by what fits in memory. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from cluster.placement import Placement
from configs.base import GIB, ConfigError
from configs.training.train import TrainConfig
from training.sizing.activations import expected_attention, why_not_attention
from training.sizing.memory import PREDICTION_ERROR, Memory, predict_memory
from training.sizing.model_size import ModelSize, TrainingLayout
from training.sizing.start import HostMemory, predict_host, predict_start

HEADROOM = {"cpu": 1 + PREDICTION_ERROR} | dict.fromkeys(("cuda", "xpu", "hpu"), 1.08 * (1 + PREDICTION_ERROR))
"""Memory must be larger than the prediction by this factor: the error of the prediction; on a GPU also the 8% that the
allocator cannot use (the 0.92 of Sailor's planner, arXiv 2504.17096; not measured here)."""

GPU_PASS_TOKENS = 16_384
"""So many tokens a pass keep a GPU busy: more sequences a pass are not chosen."""

CPU_SEQUENCES = 8
"""No more sequences a pass than these are chosen on a CPU."""


@dataclass(frozen=True)
class LayoutChoice:
    """One layout of a training, and the memory it takes."""

    zero_stage: int
    micro_batch_size: int
    num_passes: int
    """Forward and backward passes of a rank for one optimizer step."""

    memory: Memory
    """That of its steps."""

    start: int
    """Most bytes on the device while it starts."""

    host: HostMemory
    fits: bool
    """Whether it fits in the memory of a rank, with headroom; true where that memory is not known."""

    activation_checkpointing: bool
    offload_optimizer: bool


@dataclass(frozen=True)
class RunnerUp:
    """A layout that fits, too."""

    choice: LayoutChoice
    why: str
    """What it would bring, and what it costs."""


@dataclass(frozen=True)
class Fit:
    """The chosen layout, and those that came next."""

    chosen: LayoutChoice
    runners_up: tuple[RunnerUp, ...]
    """The next stage or fewer sequences a pass; and what a pool has to ask for, recomputation and an offloaded
    optimizer, where they allow more sequences a pass or a lower stage, or let anything fit."""

    remedy: str
    """What to change in the cluster file where nothing fits; empty where something does."""


def choose_layout(size: ModelSize, config: TrainConfig, placement: Placement) -> Fit:
    """Choose the lowest ZeRO stage from 1 that fits, then as many sequences a pass as fit and make it faster.

    What the pool fixes stays. An elastic training must fit on the fewest ranks that it may shrink to. Where the memory
    is not known, the lowest stage from 1 and 8 sequences are chosen, as far as the pool leaves them open. Raises
    ConfigError if the pool leaves no stage that can do what the recipe asks for, or names an implementation of
    attention that its devices do not have.
    """
    if reason := why_not_attention(config, placement):
        raise ConfigError(reason)
    stages = possible_stages(config, placement)
    if placement.memory_bytes_per_rank is None:
        return Fit(make_layout(size, config, placement, stages[0], placement.micro_batch_size), (), "")
    best = [_best(size, config, placement, stage) for stage in stages]
    fitting = [choice for choice in best if choice.fits]
    if not fitting:
        least = min(best, key=lambda choice: choice.memory.total)
        others = _others(size, config, placement, stages, least)
        return Fit(least, others, find_remedy(size, config, replace(placement, zero_stage=stages[0])))
    others = _others(size, config, placement, stages, fitting[0])
    return Fit(fitting[0], (*_second(size, config, placement, fitting), *others), "")


def apply_choice(placement: Placement, choice: LayoutChoice) -> Placement:
    """Return the placement with the choice filled in and nothing left open."""
    return replace(
        placement,
        zero_stage=choice.zero_stage,
        micro_batch_size=choice.micro_batch_size,
        activation_checkpointing=choice.activation_checkpointing,
        offload_optimizer=choice.offload_optimizer,
        leaves_open=(),
    )


def sequences_per_rank(config: TrainConfig, placement: Placement) -> int:
    """Return the sequences of an optimizer step on the rank that has most."""
    return ceil(config.global_batch_size / placement.num_ranks)


def needed_bytes(choice: LayoutChoice, device: str) -> int:
    """Return the bytes that a device must have for the predicted memory, with headroom.

    A rank on CPUs has the buffer of a checkpoint, and what it takes to start, in the same memory.
    """
    beside = choice.host if device == "cpu" else None
    steps, start = choice.memory.total, choice.start
    if beside is not None:
        steps, start = steps + beside.checkpoint, start + beside.start
    return int(max(steps, start) * HEADROOM[device])


def needed_host_bytes(choice: LayoutChoice) -> int:
    """Return the bytes that a rank on a GPU must have of its host's memory, with headroom."""
    return int(choice.host.total * HEADROOM["cpu"])


def possible_stages(config: TrainConfig, placement: Placement) -> tuple[int, ...]:
    """Return the ZeRO stages to choose from, the lowest first."""
    stages: tuple[int, ...] = (1, 2, 3)
    if "zero_stage" not in placement.leaves_open:
        stages = (placement.zero_stage,)
    quantised = [name for name in ("zero_quantized_weights", "zero_quantized_gradients") if getattr(config, name)]
    if not quantised:
        return stages
    if 3 not in stages:
        raise ConfigError(
            f"the recipe sets `{quantised[0]}`, which ZeRO stage 3 alone can do, and the pool leaves stage "
            f"{' or '.join(map(str, stages))}; set zero_stage: 3 in the cluster file, or leave the key out"
        )
    if config.zero_quantized_gradients and placement.deepspeed.zero_optimization.reduce_scatter is False:
        raise ConfigError(
            "the recipe sets `zero_quantized_gradients`, which go to their owners alone, and the pool's `deepspeed` "
            "reduce_scatter: false; leave one of the two out"
        )
    return (3,)


def _best(size: ModelSize, config: TrainConfig, placement: Placement, stage: int) -> LayoutChoice:
    """Return the choice of one stage with the largest micro-batch that fits, or with the smallest if none does."""
    choices = [make_layout(size, config, placement, stage, rows) for rows in _micro_batches(config, placement)]
    return next((choice for choice in choices if choice.fits), choices[-1])


def _micro_batches(config: TrainConfig, placement: Placement) -> Iterator[int]:
    """Yield micro-batch sizes in sequences, largest first, each no larger than its number of passes needs."""
    if "micro_batch_size" not in placement.leaves_open:
        yield placement.micro_batch_size
        return
    most = sequences_per_rank(config, placement)
    useful = CPU_SEQUENCES if placement.device == "cpu" else max(1, GPU_PASS_TOKENS // config.sequence_length)
    rows = min(most, useful)
    while rows > 0:
        passes = ceil(most / rows)
        rows = ceil(most / passes)
        yield rows
        rows -= 1


def make_layout(size: ModelSize, config: TrainConfig, placement: Placement, stage: int, rows: int) -> LayoutChoice:
    """Return the layout of a stage with so many sequences a pass, and what it takes of memory."""
    setting = _setting(config, placement, stage, rows)
    memory = predict_memory(size, setting)
    start = predict_start(size, setting, memory)
    host = predict_host(size, setting, memory, moves_rows=config.init_from is not None)
    num_passes = ceil(sequences_per_rank(config, placement) / rows)
    choice = LayoutChoice(
        zero_stage=stage,
        micro_batch_size=rows,
        num_passes=num_passes,
        memory=memory,
        start=start,
        host=host,
        fits=True,
        activation_checkpointing=placement.activation_checkpointing,
        offload_optimizer=placement.offload_optimizer,
    )
    return replace(choice, fits=_fits(choice, placement))


def _setting(config: TrainConfig, placement: Placement, stage: int, rows: int) -> TrainingLayout:
    return TrainingLayout(
        device=placement.device,
        num_ranks=placement.min_ranks,
        zero_stage=stage,
        micro_batch_size=rows,
        sequence_length=config.sequence_length,
        precision=config.precision,
        offload_optimizer=placement.offload_optimizer,
        activation_checkpointing=placement.activation_checkpointing,
        reduce_precision=config.reduce_precision,
        attention=expected_attention(config, placement),
        zero_optimization=placement.deepspeed.zero_optimization,
    )


def _fits(choice: LayoutChoice, placement: Placement) -> bool:
    device, host = placement.memory_bytes_per_rank, placement.host_bytes_per_rank
    if device is not None and needed_bytes(choice, placement.device) > device:
        return False
    return placement.device == "cpu" or host is None or needed_host_bytes(choice) <= host


def _second(
    size: ModelSize, config: TrainConfig, placement: Placement, fitting: list[LayoutChoice]
) -> Iterator[RunnerUp]:
    """Yield the next stage that fits, else fewer sequences a pass."""
    chosen = fitting[0]
    if len(fitting) > 1:
        other = fitting[1]
        saved = (chosen.memory.total - other.memory.total) / GIB
        cost = {2: "the ranks exchange gradients in every pass", 3: "the ranks exchange weights in every pass"}
        amount = f"{saved:.2f} GiB less a rank, which is not needed" if saved >= 0 else f"{-saved:.2f} GiB more a rank"
        yield RunnerUp(other, f"{amount}, and {cost[other.zero_stage]}")
        return
    smaller = [rows for rows in _micro_batches(config, placement) if rows < chosen.micro_batch_size]
    if smaller:
        other = make_layout(size, config, placement, chosen.zero_stage, smaller[0])
        saved = (chosen.memory.total - other.memory.total) / GIB
        yield RunnerUp(other, f"{saved:.2f} GiB less a rank, and more passes a step")


def _others(
    size: ModelSize, config: TrainConfig, placement: Placement, stages: tuple[int, ...], chosen: LayoutChoice
) -> tuple[RunnerUp, ...]:
    """Return what recomputation and offload, which a pool has to ask for, would bring beside what is chosen."""
    recomputing = replace(placement, activation_checkpointing=True)
    offloading = replace(placement, offload_optimizer=True)
    changes = [
        (recomputing, "the layers' forward pass is computed twice"),
        (offloading, "the update is on the host"),
        (replace(offloading, activation_checkpointing=True), "both cost time"),
    ]
    if placement.device == "cpu" or 0 in stages:
        changes = changes[:1]  # nothing to offload to, or from
    found: list[RunnerUp] = []
    for changed, cost in changes:
        settings = (changed.activation_checkpointing, changed.offload_optimizer)
        if settings == (chosen.activation_checkpointing, chosen.offload_optimizer) or (found and all(settings)):
            continue
        best = [choice for choice in (_best(size, config, changed, stage) for stage in stages) if choice.fits]
        if best and (gain := _gain(chosen, best[0])):
            found.append(RunnerUp(best[0], f"{gain}, and {cost}"))
    return tuple(found)


def _gain(chosen: LayoutChoice, other: LayoutChoice) -> str:
    """Return what another layout brings over the chosen one, in words; empty if nothing."""
    if not chosen.fits:
        return "it fits"
    if other.zero_stage < chosen.zero_stage:
        return "a lower stage fits"
    if other.zero_stage == chosen.zero_stage and other.micro_batch_size > chosen.micro_batch_size:
        return f"{other.micro_batch_size} sequences a pass instead of {chosen.micro_batch_size}"
    return ""


def find_remedy(size: ModelSize, config: TrainConfig, placement: Placement) -> str:
    """Return the cheapest change to the cluster file that makes the training fit, in words."""

    def works(changed: Placement) -> bool:
        return any(_best(size, config, changed, stage).fits for stage in possible_stages(config, changed))

    single = replace(placement, micro_batch_size=1, leaves_open=())
    sharded = replace(single, zero_stage=3)
    recomputing = replace(sharded, activation_checkpointing=True)
    changes = [
        ("set micro_batch_size: 1 for the pool, or leave it out", single),
        ("leave zero_stage and micro_batch_size out of the pool", sharded),
        ("set activation_checkpointing: true for the pool", replace(single, activation_checkpointing=True)),
        ("set activation_checkpointing: true and zero_stage: 3 for the pool", recomputing),
        *_by_ranks(recomputing),
        (
            "set offload_optimizer: true, activation_checkpointing: true and zero_stage: 3 for the pool",
            replace(recomputing, offload_optimizer=True),
        ),
    ]
    last = "use machines with more memory a rank, a smaller model or a shorter sequence_length"
    return next((words for words, changed in changes if works(changed)), last)


def _by_ranks(placement: Placement) -> Iterator[tuple[str, Placement]]:
    """Yield placements on fewer ranks, which on CPUs share a host's memory, then on more, which hold less each."""
    available = placement.memory_bytes_per_rank
    assert available is not None
    for factor in (2, 4, 8, 16, 32, 64):
        ranks = placement.num_ranks // factor
        if placement.device == "cpu" and ranks:
            fewer = replace(placement, num_ranks=ranks, min_ranks=ranks, memory_bytes_per_rank=factor * available)
            yield f"set num_ranks: {ranks}, activation_checkpointing: true and zero_stage: 3 for the pool", fewer
    for factor in (2, 4, 8, 16, 32, 64):
        ranks = factor * placement.num_ranks
        more = replace(placement, num_ranks=ranks, min_ranks=factor * placement.min_ranks)
        yield f"use {ranks:,} such ranks, with activation_checkpointing: true and zero_stage: 3", more
