"""From a pool's settings and the machines there are to how work is laid out. Pure; nothing of it is identity."""

from dataclasses import dataclass

from configs.base import ConfigError
from configs.cluster import PoolConfig, RetentionConfig, WandbConfig


@dataclass(frozen=True)
class Placement:
    """How a step is laid out on hardware."""

    num_ranks: int
    device: str
    """`cuda` or `cpu`."""

    cpus_per_rank: int
    cpus_per_task: int
    zero_stage: int
    micro_batch_size: int
    offload_optimizer: bool
    activation_checkpointing: bool
    compile: bool
    attention: str
    retention: RetentionConfig
    hang_timeout_seconds: float
    warm_spares: bool
    max_restarts: int
    start_timeout_seconds: float
    grace_seconds: float
    wandb: WandbConfig | None


def place(pool: PoolConfig, *, num_cpus: int, num_gpus: int, wandb: WandbConfig | None) -> Placement:
    """Lay a pool out on `num_cpus` cores and `num_gpus` GPUs. Raises ConfigError if it asks for more than there is."""
    _check(pool)
    num_ranks = pool.num_ranks or num_gpus or max(1, num_cpus // 2)
    cpus_per_rank = pool.cpus_per_rank or max(1, num_cpus // num_ranks)
    if num_ranks * cpus_per_rank > num_cpus or (num_gpus and num_ranks > num_gpus):
        raise ConfigError(
            f"the pool wants {num_ranks} ranks of {cpus_per_rank} CPU cores, but there are {num_cpus} cores and "
            f"{num_gpus} GPUs; lower num_ranks or cpus_per_rank in the cluster file"
        )
    return Placement(
        num_ranks=num_ranks,
        device="cuda" if num_gpus else "cpu",
        cpus_per_rank=cpus_per_rank,
        cpus_per_task=min(pool.cpus_per_task, num_cpus),
        zero_stage=pool.zero_stage,
        micro_batch_size=pool.micro_batch_size,
        offload_optimizer=pool.offload_optimizer,
        activation_checkpointing=pool.activation_checkpointing,
        compile=pool.compile,
        attention=pool.attention,
        retention=pool.retention,
        hang_timeout_seconds=pool.hang_timeout_seconds,
        warm_spares=pool.warm_spares,
        max_restarts=pool.max_restarts,
        start_timeout_seconds=pool.start_timeout_seconds,
        grace_seconds=pool.grace_seconds,
        wandb=wandb,
    )


def _check(pool: PoolConfig) -> None:
    if pool.compile and pool.zero_stage == 3:
        raise ConfigError(
            "the pool sets `compile` with ZeRO stage 3, which gathers weights by layer; use stage 0 to 2 or leave "
            "`compile` out"
        )
    if pool.offload_optimizer and pool.zero_stage == 0:
        raise ConfigError(
            "the pool sets `offload_optimizer` with ZeRO stage 0, which cannot do it; use stage 1, 2 or 3"
        )
