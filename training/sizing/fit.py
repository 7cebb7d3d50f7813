"""ZeRO stage, micro-batch and accumulation for a training on a pool: what fits in memory. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from cluster.placement import Placement
from configs.training import TrainConfig
from training.sizing.memory import ERROR, Memory, memory
from training.sizing.model_size import ModelSize, Setting

GIB = 2**30

HEADROOM = {"cpu": 1 + ERROR, "cuda": 1.08 * (1 + ERROR)}
"""By this factor memory must be larger than the prediction: the error of the model; on a GPU also what the allocator
cannot use, 8% (the 0.92 of Sailor's planner, arXiv 2504.17096, and of our own facts; not measured here)."""

GPU_PASS_TOKENS = 16_384
"""A GPU is busy with so many tokens a pass: more sequences a pass are not chosen."""

CPU_SEQUENCES = 8
"""Nor on a CPU more than these."""


@dataclass(frozen=True)
class Choice:
    """A way to lay a training out, and what it takes."""

    zero_stage: int
    micro_batch_size: int
    num_passes: int
    """Forward and backward passes of a rank for one optimizer step."""

    memory: Memory
    fits: bool
    """In the memory of a rank, with headroom. True where that is not known."""


@dataclass(frozen=True)
class Fit:
    """What is chosen, and what came second."""

    chosen: Choice
    runner_up: Choice | None
    why: str
    """Why the runner-up is not chosen; empty without one."""

    remedy: str
    """What to change where it does not fit; empty where it does."""


def choose(size: ModelSize, config: TrainConfig, placement: Placement) -> Fit:
    """The lowest ZeRO stage from 1 that fits, then as many sequences a pass as fit and bring something.

    What the pool fixes stays. Where an elastic training may shrink, it must fit on the fewest ranks. Without knowledge
    of the memory: stage 1 and 8 sequences, as far as the pool leaves them open.
    """
    if placement.memory_bytes_per_rank is None:
        return Fit(_choice(size, config, placement, placement.zero_stage, placement.micro_batch_size), None, "", "")
    best = [_best(size, config, placement, stage) for stage in _stages(placement)]
    fitting = [choice for choice in best if choice.fits]
    if not fitting:
        least = min(best, key=lambda choice: choice.memory.total)
        return Fit(least, None, "", _remedy(size, config, placement))
    chosen = fitting[0]
    runner_up, why = _second(size, config, placement, fitting)
    return Fit(chosen, runner_up, why, "")


def settle(placement: Placement, choice: Choice) -> Placement:
    """The placement with nothing left open."""
    return replace(placement, zero_stage=choice.zero_stage, micro_batch_size=choice.micro_batch_size, leaves_open=())


def share(config: TrainConfig, placement: Placement) -> int:
    """Sequences of an optimizer step on the rank that has most."""
    return ceil(config.global_batch_size / placement.num_ranks)


def needed_bytes(found: Memory, device: str) -> int:
    """Memory that a device must have for it."""
    return int(found.total * HEADROOM[device])


def _stages(placement: Placement) -> tuple[int, ...]:
    if "zero_stage" not in placement.leaves_open:
        return (placement.zero_stage,)
    return (1, 2) if placement.compile else (1, 2, 3)


def _best(size: ModelSize, config: TrainConfig, placement: Placement, stage: int) -> Choice:
    """Of one stage the largest micro-batch that fits, or, if none does, the smallest there is."""
    choices = [_choice(size, config, placement, stage, rows) for rows in _micro_batches(config, placement)]
    return next((choice for choice in choices if choice.fits), choices[-1])


def _micro_batches(config: TrainConfig, placement: Placement) -> Iterator[int]:
    """From the largest; each with a number of passes of its own, and no larger than these passes need."""
    if "micro_batch_size" not in placement.leaves_open:
        yield placement.micro_batch_size
        return
    own = share(config, placement)
    useful = CPU_SEQUENCES if placement.device == "cpu" else max(1, GPU_PASS_TOKENS // config.sequence_length)
    rows = min(own, useful)
    while rows > 0:
        passes = ceil(own / rows)
        rows = ceil(own / passes)
        yield rows
        rows -= 1


def _choice(size: ModelSize, config: TrainConfig, placement: Placement, stage: int, rows: int) -> Choice:
    found = memory(size, _setting(config, placement, stage, rows))
    return Choice(stage, rows, ceil(share(config, placement) / rows), found, _fits(found, placement))


def _setting(config: TrainConfig, placement: Placement, stage: int, rows: int) -> Setting:
    return Setting(
        device=placement.device,
        num_ranks=placement.min_ranks,
        zero_stage=stage,
        micro_batch_size=rows,
        sequence_length=config.sequence_length,
        precision=config.precision,
        offload_optimizer=placement.offload_optimizer,
        activation_checkpointing=placement.activation_checkpointing,
        attention=placement.attention,
    )


def _fits(found: Memory, placement: Placement) -> bool:
    room, host = placement.memory_bytes_per_rank, placement.host_bytes_per_rank
    return (room is None or needed_bytes(found, placement.device) <= room) and (host is None or found.host <= host)


def _second(
    size: ModelSize, config: TrainConfig, placement: Placement, fitting: list[Choice]
) -> tuple[Choice | None, str]:
    """The next stage that fits; else fewer sequences a pass."""
    chosen = fitting[0]
    if len(fitting) > 1:
        other = fitting[1]
        saved = (chosen.memory.total - other.memory.total) / GIB
        cost = {2: "the ranks exchange gradients in every pass", 3: "the ranks exchange weights in every pass"}
        amount = f"{saved:.2f} GiB less a rank, which is not needed" if saved >= 0 else f"{-saved:.2f} GiB more a rank"
        return other, f"{amount}, and {cost[other.zero_stage]}"
    smaller = [rows for rows in _micro_batches(config, placement) if rows < chosen.micro_batch_size]
    if not smaller:
        return None, ""
    other = _choice(size, config, placement, chosen.zero_stage, smaller[0])
    return other, f"{(chosen.memory.total - other.memory.total) / GIB:.2f} GiB less a rank, and more passes a step"


def _remedy(size: ModelSize, config: TrainConfig, placement: Placement) -> str:
    """The first of the changes to a cluster file that makes it fit, from the cheapest."""

    def works(changed: Placement) -> bool:
        return any(_best(size, config, changed, stage).fits for stage in _stages(changed))

    single = replace(placement, micro_batch_size=1, leaves_open=())
    sharded = replace(single, zero_stage=3, compile=False)
    recomputing = replace(sharded, activation_checkpointing=True)
    changes = [
        ("set micro_batch_size: 1 for the pool, or leave it out", single),
        ("leave zero_stage, micro_batch_size and compile out of the pool", sharded),
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
    """On CPUs fewer ranks share a host's memory; more ranks hold less each."""
    room = placement.memory_bytes_per_rank
    assert room is not None
    for factor in (2, 4, 8, 16, 32, 64):
        ranks = placement.num_ranks // factor
        if placement.device == "cpu" and ranks:
            fewer = replace(placement, num_ranks=ranks, min_ranks=ranks, memory_bytes_per_rank=factor * room)
            yield f"set num_ranks: {ranks}, activation_checkpointing: true and zero_stage: 3 for the pool", fewer
    for factor in (2, 4, 8, 16, 32, 64):
        ranks = factor * placement.num_ranks
        more = replace(placement, num_ranks=ranks, min_ranks=factor * placement.min_ranks)
        yield f"use {ranks:,} such ranks, with activation_checkpointing: true and zero_stage: 3", more
