"""What a cluster file may say of a pool: which machines it has, and how work is laid out on them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.base import Config

Nodes = Annotated[int, Field(ge=1, le=100_000)]
"""Machines."""

Cores = Annotated[int, Field(ge=1, le=100_000)]
"""CPU cores of a machine."""

Gpus = Annotated[int, Field(ge=0, le=1_000)]
"""GPUs of a machine."""

Gib = Annotated[float, Field(gt=0, le=1e6)]
"""Memory of a machine."""


class RetentionConfig(Config):
    """Which checkpoints stay on disk. One that an evaluation is reading stays as well."""

    newest: int = Field(default=2, ge=1)
    """So many of the newest."""

    every_steps: int | None = Field(default=None, ge=1)
    """Also each whose step is a multiple of this."""

    best: int = Field(default=0, ge=0)
    """Also so many of those with the lowest training loss, over the steps since the checkpoint before."""


class MachinesConfig(Config):
    """The machines of a pool, as far as they are known before they are reached: what `concord plan` reckons with."""

    num_nodes: Nodes
    """Machines."""

    cpus_per_node: Cores
    """CPU cores of one."""

    memory_gib_per_node: Gib
    """Host memory of one."""

    accelerators_per_node: Gpus = 0
    """GPUs of one."""

    accelerator_memory_gib: Gib | None = None
    """Memory of one GPU. Left out: that of the pool's `accelerator`, where it is a known one."""

    network_gbps_per_node: float | None = Field(default=None, gt=0, le=1e6)
    """Network bandwidth of one, in Gbit/s in each direction."""

    price_per_node_hour: float | None = Field(default=None, ge=0, le=1e9)
    """What one costs an hour; with it a plan says what a run costs."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """Of the price: ISO 4217."""


class PoolConfig(Config):
    """How training and parallel work use one kind of machine."""

    accelerator: str | None = None
    """Only nodes with this kind of GPU, by Ray's name: `H100`, `A100`, `L40S`, `AMD-Instinct-MI300X-OAM` and so on."""

    labels: dict[str, str] = {}
    """Only nodes with these Ray labels (`ray start --labels`)."""

    machines: MachinesConfig | None = None
    """The machines there are. Left out: known only when the cluster is reached."""

    num_ranks: int | None = Field(default=None, ge=1)
    """Training processes. Left out: one a GPU, or without GPUs one for each two CPU cores."""

    min_ranks: int | None = Field(default=None, ge=1)
    """With this training is elastic: it goes on with fewer ranks, but not fewer than this, when nodes are lost, and
    takes more, up to num_ranks, when nodes join. Left out: it waits for the number of ranks it began with."""

    cpus_per_rank: int | None = Field(default=None, ge=1)
    """CPU cores, and threads, of a training process. Left out: the cores shared evenly among the ranks."""

    cpus_per_task: int = Field(default=1, ge=1)
    """CPU cores of one item of parallel work, such as cleaning one file."""

    zero_stage: Literal[0, 1, 2, 3] | None = None
    """DeepSpeed ZeRO stage: what is sharded over the ranks. 0 nothing, 1 optimizer state, 2 also gradients,
    3 also parameters. Left out: the lowest from 1 that fits, as `concord plan` shows it."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Sequences of one forward and backward pass on one rank; the rest of the batch is accumulated. Left out: as many
    as fit, as `concord plan` shows it."""

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
    """How often a lost worker or a lost group of ranks is started again before the attempt fails."""

    start_timeout_seconds: float = Field(default=300, gt=0)
    """How long to wait for the resources of a group of ranks."""

    @model_validator(mode="after")
    def _ranks_are_in_order(self) -> Self:
        if self.min_ranks and self.num_ranks and self.min_ranks > self.num_ranks:
            raise ValueError(f"min_ranks is {self.min_ranks}, more than num_ranks, {self.num_ranks}")
        return self
