"""DeepSpeed's configuration, the sizes of its buffers, and which optimizer updates a parameter.

Imports nothing heavy: training/sizing/ predicts memory from the same constants and rules as the engine trains with.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from cluster.placement import Placement
from configs.deepspeed import ZeroOptimizationConfig
from configs.training.train import TrainConfig

JsonDict = dict[str, object]
T = TypeVar("T")

CPU_BUCKET_ELEMENTS = 500_000_000
"""Elements of the buffer in which ZeRO 1 to 3 reduce gradients on CPUs, where only what is touched of it takes memory.
It is DeepSpeed's default."""

MIN_GPU_BUCKET_ELEMENTS, MAX_GPU_BUCKET_ELEMENTS, GPU_BUCKETS = 16_000_000, 200_000_000, 16
"""On a GPU, which allocates all of it, the buffer takes a sixteenth of the gradients, within these bounds: several
reductions a pass, of 64 MB and more in fp32, can be hidden behind it, and small models do not pay for large ones."""

MAX_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`: ZeRO-3 keeps at most so many gathered parameters."""

PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's `stage3_prefetch_bucket_size`: ZeRO-3 gathers so many parameters ahead of their use."""

OWNED_ELEMENTS_PER_RANK = 100_000
"""On GPUs, stages 1 and 2 reduce gradients to their owners if these have so many for each rank; else an all-reduce, of
twice the bytes, takes fewer messages. A reduce passes every rank in turn, about 8 us each, in which 50 GB/s send
100,000 elements in fp32: an estimate, not measured."""

ALLREDUCE_BUCKET_ELEMENTS = 500_000_000
"""Gradients that DeepSpeed copies into one tensor for an all-reduce without ZeRO. It is no setting, but a constant of
deepspeed/runtime/engine.py, MEMORY_OPT_ALLREDUCE_SIZE."""

MUON_BUCKET_ELEMENTS = 16 << 20
"""Elements of the matrices that a rank orthogonalises in one round of Muon's update, unless one matrix has more: few
collectives, and batches that keep a GPU busy, in 64 MiB of fp32."""

ADAMW_MOMENTS, MUON_MOMENTS = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""The fp32 tensors that each optimizer keeps beside the master weights, each with an element for each of theirs."""

EMA = "ema"
"""The moving average of the masters, kept as a further one of these if the recipe asks for it."""


@dataclass(frozen=True)
class Buffers:
    """How ZeRO exchanges gradients and weights, as far as it takes memory. Sizes are in elements."""

    overlaps: bool
    """Whether gradients are reduced while a pass computes; stages 1 and 2 have a second bucket for it."""

    is_contiguous: bool
    """Whether gradients are copied into a bucket before they are reduced."""

    reduce_bucket: int
    max_live: int
    prefetch_bucket: int
    num_secondary_ranks: int
    """Ranks over which a second copy of the weights is sharded in stage 3; 1: there is none."""


def choose_buffers(asked: ZeroOptimizationConfig, *, device: str, zero_stage: int, num_trained: int) -> Buffers:
    """Return what the pool asks for, and for what it leaves open what suits `num_trained` elements of parameters."""
    bucket = CPU_BUCKET_ELEMENTS
    if device != "cpu":
        bucket = min(max(num_trained // GPU_BUCKETS, MIN_GPU_BUCKET_ELEMENTS), MAX_GPU_BUCKET_ELEMENTS, num_trained)
    return Buffers(
        overlaps=_first(asked.overlap_comm, zero_stage == 3 or (zero_stage > 0 and device != "cpu")),
        is_contiguous=_first(asked.contiguous_gradients, True),
        reduce_bucket=max(
            1, bucket if asked.reduce_bucket_size is None else min(asked.reduce_bucket_size, num_trained)
        ),
        max_live=_first(asked.stage3_max_live_parameters, MAX_LIVE_ELEMENTS),
        prefetch_bucket=_first(asked.stage3_prefetch_bucket_size, PREFETCH_ELEMENTS),
        num_secondary_ranks=asked.zero_hpz_partition_size or 1,
    )


def deepspeed_config(config: TrainConfig, placement: Placement, *, num_trained: int) -> JsonDict:
    """Return the dictionary for deepspeed.initialize, for a model of `num_trained` elements that are not frozen.

    Batch sizes in it are nominal: the loop sets accumulation boundaries by hand and scales the loss itself
    (training/loop/step.py). Gradients accumulate in fp32 in every stage and precision, and are summed over ranks in the
    recipe's `reduce_precision`.
    """
    result: JsonDict = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if is_plain(config, placement) else config.optimizer.max_gradient_norm,
        "communication_data_type": config.reduce_precision,
        "steps_per_print": 10**12,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the GPU in every pass
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **placement.deepspeed.model_dump(exclude_none=True, exclude={"zero_optimization"}),
        "zero_optimization": _zero_optimization(config, placement, num_trained=num_trained),
    }
    if config.precision == "bf16":
        result["data_types"] = {"grad_accum_dtype": "fp32"}
    if placement.zero_stage < 3:  # which refuses it: training/zero/engine.py
        result["gradient_allreduce_op"] = "sum"
    return result


def _zero_optimization(config: TrainConfig, placement: Placement, *, num_trained: int) -> JsonDict:
    asked, device, stage = placement.deepspeed.zero_optimization, placement.device, placement.zero_stage
    buffers = choose_buffers(asked, device=device, zero_stage=stage, num_trained=num_trained)
    chosen: JsonDict = {
        "stage": stage,
        "overlap_comm": buffers.overlaps,
        "reduce_bucket_size": buffers.reduce_bucket,
        "use_multi_rank_bucket_allreduce": not _has_large_shares(placement, num_trained=num_trained),
        "stage3_max_live_parameters": buffers.max_live,
        "stage3_prefetch_bucket_size": buffers.prefetch_bucket,
        "zero_quantized_weights": config.zero_quantized_weights,
    }
    given = asked.model_dump(exclude_none=True, exclude={"offload_optimizer", "reduce_bucket_size"})
    if not placement.offload_optimizer:
        return chosen | given
    pinned = asked.offload_optimizer.pin_memory if asked.offload_optimizer else None
    offload = {"device": "cpu", "pin_memory": _first(pinned, device != "cpu")}
    return chosen | given | {"offload_optimizer": offload}


def _has_large_shares(placement: Placement, *, num_trained: int) -> bool:
    """Return whether ranks own so much that gradients are reduced to one owner after another."""
    return placement.device != "cpu" and num_trained >= OWNED_ELEMENTS_PER_RANK * placement.num_ranks**2


def reduces_to_owners(placement: Placement, *, num_trained: int) -> bool:
    """Return whether below stage 3 a gradient is sent to the rank that owns it alone, and not to all."""
    asked = placement.deepspeed.zero_optimization
    if placement.zero_stage == 0 or asked.reduce_scatter is False:
        return False
    return not _first(asked.use_multi_rank_bucket_allreduce, not _has_large_shares(placement, num_trained=num_trained))


def _first(given: T | None, chosen: T) -> T:
    return chosen if given is None else given


def is_plain(config: TrainConfig, placement: Placement) -> bool:
    """Return whether DeepSpeed leaves the optimizer as it is: the parameters are the masters, and nobody clips."""
    return placement.zero_stage == 0 and config.precision == "fp32"


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the recipe's `freeze` patterns take the parameter `name` out of training."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def why_not_frozen(names: Collection[str], patterns: Sequence[str]) -> str | None:
    """Return why a model with these parameters cannot keep to the recipe's `freeze` patterns; None if it can."""
    for pattern in patterns:
        if not any(is_frozen(name, [pattern]) for name in names):
            return f"freeze: no parameter is named like {pattern!r}; there is, for example, {next(iter(names))}"
    if all(is_frozen(name, patterns) for name in names):
        return "freeze: its patterns match every parameter, so nothing is left to train"
    return None


def is_updated_by_muon(shape: Sequence[int], *, is_embedding_or_output: bool) -> bool:
    """Return whether Muon, where the recipe asks for it, updates a trained parameter: a matrix inside the layers.

    AdamW updates the others: vectors, the input embedding and the output layer.
    """
    return len(shape) > 1 and not is_embedding_or_output
