"""The keys of DeepSpeed's configuration that a pool may set, with DeepSpeed's own names and nesting (0.19.8).

They say how ranks communicate, what they buffer and fetch ahead, and what DeepSpeed logs: nothing of what is made. Each
other key of DeepSpeed's is refused, with the reason and what to set instead.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.base import Config

Elements = Annotated[int, Field(ge=0, le=10**13)]
"""Number of elements of weights or gradients."""

_OF_THE_RECIPE = "it changes what is made, so the recipe's {} under the step's `config:` says it"
_OF_CHECKPOINTS = "Concord writes and reads its own checkpoints; leave it out"
_REMOVED = "DeepSpeed 0.19.8 does not have it any more; leave it out"
_UNUSED = "DeepSpeed 0.19.8 does not use it; leave it out"
_UNTRIED = "Concord was not tried with it; leave it out"


class OffloadOptimizerConfig(Config):
    """How the optimizer is offloaded, where the pool sets `offload_optimizer: true`."""

    pin_memory: bool | None = None
    """Hold it in page-locked host memory, for faster copies. Left out: on GPUs."""

    refused: ClassVar[Mapping[str, str]] = {
        "device": "the pool's `offload_optimizer` says it: host memory",
        "ratio": "DeepSpeed would update a part by another optimizer, whose learning rate stands still; leave it out",
        **dict.fromkeys(
            ("nvme_path", "buffer_count", "pipeline_read", "pipeline_write", "fast_init"),
            "Concord offloads to host memory, not to NVMe; leave it out",
        ),
        **dict.fromkeys(("super_offload", "cpuadam_cores_perc"), _UNTRIED),
    }


_STAGE_3_ONLY = ("sub_group_size", "zero_hpz_partition_size", "log_trace_cache_warnings", "enable_sanity_checks")


class ZeroOptimizationConfig(Config):
    """Keys of DeepSpeed's `zero_optimization`. What is left out is chosen by Concord or, where it says nothing, is
    DeepSpeed's default."""

    overlap_comm: bool | None = None
    """Exchange gradients, and in stage 3 weights, while the passes compute, at the price of a second bucket in stages 1
    and 2. Left out: on GPUs, and in stage 3."""

    reduce_bucket_size: Annotated[int, Field(ge=1, le=10**13)] | None = None
    """Elements of gradients that are reduced at a time. Left out: on GPUs a sixteenth of the trained parameters, at
    least 16 million and at most 200; on CPUs 500 million. No more than the model has are taken."""

    contiguous_gradients: bool | None = None
    """Copy gradients into a buffer of a bucket's size before they are reduced. Left out: yes."""

    reduce_scatter: bool | None = None
    """Reduce each gradient to the rank that needs it, not to all. Left out: yes."""

    use_multi_rank_bucket_allreduce: bool | None = None
    """In stages 1 and 2, reduce what many ranks need by one all-reduce, which sends twice the bytes in fewer messages.
    Left out: on CPUs, and on GPUs where a rank's share is small (docs/training.md)."""

    sub_group_size: Annotated[int, Field(ge=1, le=10**13)] | None = None
    """In stage 3, elements of a rank's master weights that are updated at a time."""

    stage3_prefetch_bucket_size: Elements | None = None
    """In stage 3, elements of weights that are gathered ahead of their use."""

    stage3_param_persistence_threshold: Elements | None = None
    """In stage 3, parameters of at most so many elements stay gathered."""

    stage3_model_persistence_threshold: Elements | None = None
    """In stage 3, at most so many elements in all stay gathered for that reason."""

    stage3_max_live_parameters: Elements | None = None
    """In stage 3, elements of gathered weights that a rank keeps at most."""

    stage3_max_reuse_distance: Elements | None = None
    """In stage 3, keep weights that are used again within so many elements."""

    stage3_use_all_reduce_for_fetch_params: bool | None = None
    """In stage 3, gather weights by an all-reduce over zeros: fewer copies on the host, twice the bytes."""

    stage3_allgather_sequential: bool | None = None
    """In stage 3, gather one parameter at a time: no buffer for several, more messages."""

    zero_hpz_partition_size: int | None = Field(default=None, ge=1, le=100_000)
    """In stage 3, keep a second copy of the weights, sharded over so many neighbouring ranks, and gather from these in
    the backward pass: less traffic between machines. It has to divide the ranks: a machine's GPUs."""

    log_trace_cache_warnings: bool | None = None
    """In stage 3, log when the order of modules differs from that of the passes before, so that nothing is prefetched.
    """

    enable_sanity_checks: bool | None = None
    """In stage 3, have the ranks compare which parameters they exchange: slower."""

    offload_optimizer: OffloadOptimizerConfig | None = None
    """How the optimizer is offloaded."""

    def unused_in(self, zero_stage: int) -> tuple[str, tuple[int, ...]] | None:
        """Return a key that is set and does nothing in a ZeRO stage, and the stages that it is for; None without."""
        for key in self.model_dump(exclude_none=True):
            stages: tuple[int, ...] = (1, 2, 3)
            if key in _STAGE_3_ONLY or key.startswith("stage3_"):
                stages = (3,)
            elif key == "use_multi_rank_bucket_allreduce":
                stages = (1, 2)
            if zero_stage not in stages:
                return key, stages
        return None

    refused: ClassVar[Mapping[str, str]] = {
        "stage": "the pool's `zero_stage` says it",
        "offload_param": "Concord's checkpoints do not know offloaded weights; set `zero_stage: 3` with more ranks, or "
        "`offload_optimizer: true` for the pool",
        "cpu_offload": "the pool's `offload_optimizer` says it",
        "zero_quantized_weights": _OF_THE_RECIPE.format("`zero_quantized_weights`"),
        "zero_quantized_gradients": _OF_THE_RECIPE.format("`zero_quantized_gradients`"),
        "zero_quantized_nontrainable_weights": "it would round the weights of frozen parameters; leave it out",
        "zenflow": "it updates weights later than the optimizer says, which changes what is made; leave it out",
        "round_robin_gradients": "with it DeepSpeed 0.19.8 mistakes whose master weights are whose, and a checkpoint "
        "would be wrong; leave it out",
        "compute_grad_norm": "Concord clips by the norm and reports it; leave it out",
        **dict.fromkeys(("allgather_partitions", "allgather_bucket_size"), _UNUSED),
        **dict.fromkeys(
            (
                "load_from_fp32_weights",
                "elastic_checkpoint",
                "stage3_gather_16bit_weights_on_model_save",
                "stage3_gather_fp16_weights_on_model_save",
                "pipeline_loading_checkpoint",
            ),
            _OF_CHECKPOINTS,
        ),
        **dict.fromkeys(
            (
                "parameter_alignment",
                "ignore_unused_parameters",
                "memory_efficient_linear",
                "override_module_apply",
                "leaf_module",
                "stage3_module_granularity_threshold",
                "save_muon_momentum_buffer_in_memory",
            ),
            _UNTRIED,
        ),
        **dict.fromkeys(
            (
                "legacy_stage1",
                "cpu_offload_param",
                "cpu_offload_use_pin_memory",
                "mics_hierarchical_params_gather",
                "zeropp_loco_param",
            ),
            _REMOVED,
        ),
        "mics_shard_size": "DeepSpeed 0.19.8 does not have it any more; `zero_hpz_partition_size` is the like of it",
    }


TimedCollective = Literal[
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter_tensor",
]
"""DeepSpeed's names of the collectives that Concord's steps have it call."""


class CommsLoggerConfig(Config):
    """DeepSpeed's log of collectives. Each of them is waited for, so training becomes slower."""

    enabled: bool
    """Time each collective."""

    verbose: bool = False
    """Write each into the log of rank 0."""

    prof_all: bool = True
    """Time all kinds."""

    prof_ops: tuple[TimedCollective, ...] = ()
    """The kinds to time, where not all are."""

    debug: bool = False
    """Write down which function has called it."""


class DeepSpeedConfig(Config):
    """DeepSpeed's own configuration, as far as a pool may set it: what cannot change what is made."""

    zero_optimization: ZeroOptimizationConfig = ZeroOptimizationConfig()
    """How ZeRO communicates and what it buffers."""

    comms_logger: CommsLoggerConfig | None = None
    """DeepSpeed's log of collectives."""

    wall_clock_breakdown: bool | None = None
    """Write DeepSpeed's own times of a step into the log of rank 0; it waits for the GPU at each of them."""

    memory_breakdown: bool | None = None
    """Write the memory in use into the log of rank 0, before and after each pass and update."""

    refused: ClassVar[Mapping[str, str]] = {
        "train_batch_size": _OF_THE_RECIPE.format("`global_batch_size`"),
        "train_micro_batch_size_per_gpu": "the pool's `micro_batch_size` says it",
        "gradient_accumulation_steps": "it follows from the recipe's `global_batch_size`, the ranks and the pool's "
        "`micro_batch_size`",
        "gradient_clipping": _OF_THE_RECIPE.format("`optimizer.max_gradient_norm`"),
        "optimizer": _OF_THE_RECIPE.format("`optimizer`"),
        "scheduler": _OF_THE_RECIPE.format("`schedule`"),
        "communication_data_type": _OF_THE_RECIPE.format("`reduce_precision`"),
        **dict.fromkeys(("bf16", "bfloat16", "fp16", "torch_autocast", "amp"), _OF_THE_RECIPE.format("`precision`")),
        "data_types": "gradients add up in fp32 in any case; leave it out",
        "seed": _OF_THE_RECIPE.format("`seed`"),
        "activation_checkpointing": "the pool's `activation_checkpointing` says it",
        "compile": "the pool's `compile` says it",
        "elasticity": "the pool's `min_ranks` says it",
        **dict.fromkeys(
            ("wandb", "tensorboard", "csv_monitor", "comet"),
            "metrics are in metrics.jsonl and, by the cluster file's `wandb`, on Weights & Biases",
        ),
        **dict.fromkeys(("checkpoint", "nebula", "datastates"), _OF_CHECKPOINTS),
        **dict.fromkeys(
            ("steps_per_print", "log_level", "dump_state"), "the metrics are in metrics.jsonl; leave it out"
        ),
        **dict.fromkeys(
            (
                "prescale_gradients",
                "gradient_predivide_factor",
                "gradient_allreduce_op",
                "managed_gradient_accumulation",
                "zero_allow_untested_optimizer",
                "zero_force_ds_cpu_optimizer",
                "timers",
            ),
            "Concord sets it itself; leave it out",
        ),
        **dict.fromkeys(
            ("curriculum_learning", "data_efficiency", "dataloader_drop_last"),
            "which sample is read when follows from the recipe; leave it out",
        ),
        **dict.fromkeys(
            ("compression_training", "weight_quantization", "sparse_gradients", "progressive_layer_drop"),
            "it changes what is made, and Concord has nothing like it; leave it out",
        ),
        **dict.fromkeys(
            (
                "aio",
                "autotuning",
                "disable_allgather",
                "disable_python_gc",
                "expert_parallel",
                "flops_profiler",
                "hybrid_engine",
                "pipeline",
                "sequence_parallel_size",
                "seq_parallel_communication_data_type",
                "tensor_parallel",
                "use_data_before_expert_parallelism",
                "vocabulary_size",
            ),
            _UNTRIED,
        ),
    }
