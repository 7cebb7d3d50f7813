"""From a training config and a placement to DeepSpeed's own configuration. Pure."""

from cluster.placement import Placement
from configs.training import TrainConfig

JsonDict = dict[str, object]


def deepspeed_config(config: TrainConfig, placement: Placement) -> JsonDict:
    """The dictionary for deepspeed.initialize.

    Batch sizes in it are nominal: the loop drives accumulation boundaries by hand and scales the loss itself
    (see training/loop/trainer.py). With bf16, gradients accumulate in fp32 wherever ZeRO shards the optimizer; without
    ZeRO DeepSpeed refuses that mix and they accumulate in bf16.
    """
    zero: JsonDict = {"stage": placement.zero_stage}
    if placement.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": placement.device == "cuda"}
    result: JsonDict = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_gradient_norm,
        "steps_per_print": 10**12,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if placement.zero_stage > 0 and config.precision == "bf16":
        result["data_types"] = {"grad_accum_dtype": "fp32"}
    return result
