"""What a cluster file may say: where work runs. Placement, never identity, so nothing here is hashed."""

from typing import Literal

from pydantic import Field

from configs.base import Config, Name


class RetentionConfig(Config):
    """Which checkpoints stay on disk. One that an evaluation is reading stays as well."""

    newest: int = Field(default=2, ge=1)
    """So many of the newest."""

    every_steps: int | None = Field(default=None, ge=1)
    """Also each whose step is a multiple of this."""

    best: int = Field(default=0, ge=0)
    """Also so many of those with the lowest training loss, over the steps since the checkpoint before."""


class PoolConfig(Config):
    """How training and parallel work use one kind of machine."""

    num_ranks: int | None = Field(default=None, ge=1)
    """Training processes. Left out: one a GPU, or without GPUs one for each two CPU cores."""

    cpus_per_rank: int | None = Field(default=None, ge=1)
    """CPU cores, and threads, of a training process. Left out: the cores shared evenly among the ranks."""

    cpus_per_task: int = Field(default=1, ge=1)
    """CPU cores of one item of parallel work, such as cleaning one file."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: what is sharded over the ranks. 0 nothing, 1 optimizer state, 2 also gradients,
    3 also parameters."""

    micro_batch_size: int = Field(default=8, ge=1)
    """Sequences of one forward and backward pass on one rank; the rest of the batch is accumulated."""

    offload_optimizer: bool = False
    """Keep the optimizer's weights and moments in host memory and update them there (AdamW by DeepSpeed's CPUAdam,
    which is compiled at first use). For ZeRO stages 1 to 3."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third more time."""

    compile: bool = False
    """Compile each layer with torch.compile: faster steps after a slower first one. For ZeRO stages 0 to 2."""

    attention: Literal["sdpa", "flex_attention", "eager"] = "sdpa"
    """Which of transformers' implementations of attention; `flex_attention` needs a GPU."""

    retention: RetentionConfig = RetentionConfig()
    """Which checkpoints stay on disk."""

    hang_timeout_seconds: float = Field(default=600, gt=0)
    """A rank that makes no progress for so long is ended, with the stack of every rank written down; the first step,
    which may compile, gets three times as long."""

    grace_seconds: float = Field(default=60, gt=0)
    """On SIGTERM or SIGUSR1 (pre-emption) training saves a checkpoint and ends, within this time, with exit code 75."""

    warm_spares: bool = True
    """Keep, for each rank, a process that has the libraries loaded, to take its place when ranks are lost."""

    max_restarts: int = Field(default=3, ge=0)
    """How often a lost worker or a lost group of ranks is started again before the step fails."""

    start_timeout_seconds: float = Field(default=300, gt=0)
    """How long to wait for the resources of a group of ranks."""


class WandbConfig(Config):
    """Weights & Biases: a copy of the metrics, online where the user has logged in, else kept on disk."""

    project: str = Field(default="concord", min_length=1)
    """Project to log to."""

    entity: str | None = None
    """User or team; the account's default if left out."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto` is online when an API key is there, else offline."""


class ClusterConfig(Config):
    """Where a run takes place."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray` runs work in parallel, on this machine or a cluster; `inline` in this process, one item at a time."""

    ray_address: str = "local"
    """`local` starts a private Ray on this machine for the time of the run; `host:port` joins a running one."""

    pools: dict[Name, PoolConfig] = {"default": PoolConfig()}
    """Pools by name; a step's `pool` names one."""

    wandb: WandbConfig | None = None
    """Where to copy training metrics; null keeps them in metrics.jsonl alone."""
