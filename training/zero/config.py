"""DeepSpeed's configuration, the sizes of its buffers, and which optimizer updates a parameter.

Imports nothing heavy: training/sizing/ predicts memory from the same constants and rules as the engine trains with.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from cluster.placement import Placement
from configs.training import TrainConfig

JsonDict = dict[str, object]

REDUCE_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's `reduce_bucket_size`: ZeRO 1 to 3 allocate a buffer of so many gradients, however small the model is."""

MAX_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`: ZeRO-3 keeps at most so many gathered parameters."""

ALLREDUCE_BUCKET_ELEMENTS = 500_000_000
"""Gradients that DeepSpeed copies into one tensor for an all-reduce where it does not shard them: without ZeRO, and in
stage 1 with bf16. It is no setting, but a constant of deepspeed/runtime/engine.py, MEMORY_OPT_ALLREDUCE_SIZE."""

MUON_BUCKET_ELEMENTS = 16 << 20
"""Muon gathers its matrices in buckets of about so many fp32 elements: few collectives, 64 MiB of memory."""

ADAMW_MOMENTS, MUON_MOMENTS = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""The fp32 tensors that each optimizer keeps beside the master weights, each with an element for each of theirs."""


def deepspeed_config(config: TrainConfig, placement: Placement) -> JsonDict:
    """Return the dictionary for deepspeed.initialize.

    Batch sizes in it are nominal: the loop sets accumulation boundaries by hand and scales the loss itself
    (training/loop/step.py). Gradients accumulate in fp32 in every stage and precision, and are summed over ranks in the
    recipe's `reduce_precision`.
    """
    zero: JsonDict = {
        "stage": placement.zero_stage,
        "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS,
        "stage3_max_live_parameters": MAX_LIVE_ELEMENTS,
    }
    if placement.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": placement.device != "cpu"}
    result: JsonDict = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if is_plain(config, placement) else config.optimizer.max_gradient_norm,
        "communication_data_type": config.reduce_precision,
        "steps_per_print": 10**12,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the GPU in every pass
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.precision == "bf16":
        result["data_types"] = {"grad_accum_dtype": "fp32"}
    if placement.zero_stage < 3:  # which refuses it: training/zero/engine.py
        result["gradient_allreduce_op"] = "sum"
    return result


def is_plain(config: TrainConfig, placement: Placement) -> bool:
    """Return whether DeepSpeed leaves the optimizer as it is: the parameters are the masters, and nobody clips."""
    return placement.zero_stage == 0 and config.precision == "fp32"


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the recipe's `freeze` patterns take the parameter `name` out of training."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_updated_by_muon(shape: Sequence[int], *, is_embedding_or_output: bool) -> bool:
    """Return whether Muon, where the recipe asks for it, updates a trained parameter: a matrix inside the layers.

    AdamW updates the others: vectors, the input embedding and the output layer.
    """
    return len(shape) > 1 and not is_embedding_or_output
