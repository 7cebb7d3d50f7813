"""The settings of a cluster file about a pool: its machines, and how work is laid out on them."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_serializer, model_validator

from configs.base import Config
from configs.deepspeed import DeepSpeedConfig
from configs.nodes import Cores, Gib, Gpus, KubernetesNodesConfig, Nodes, SlurmNodesConfig
from configs.paths import PathText

Maker = Literal["NVIDIA", "AMD", "Intel", "Gaudi"]
"""Who makes an accelerator; Gaudi is Intel's too, but has nothing in common with its GPUs."""


def maker_of(accelerator: str | None) -> Maker:
    """Return the maker of an accelerator by Ray's name of it: those of NVIDIA's do not begin with the maker."""
    name = accelerator or ""
    if name.startswith("Intel-GAUDI"):
        return "Gaudi"
    return "AMD" if name.startswith("AMD-") else "Intel" if name.startswith("Intel-") else "NVIDIA"


class RetentionConfig(Config):
    """Which checkpoints stay on disk. One that an evaluation is reading stays as well."""

    newest: int = Field(default=2, ge=1)
    """Number of the newest checkpoints to keep."""

    every_steps: int | None = Field(default=None, ge=1)
    """Keep also each checkpoint whose step is a multiple of this."""

    best: int = Field(default=0, ge=0)
    """Keep also this many checkpoints with the lowest validation loss, or without validation the lowest training loss
    over the steps since the checkpoint before. The one of the lowest validation loss stays in any case."""


class MachinesConfig(Config):
    """A machine of a pool as it is known before the cluster is reached: what `concord plan` calculates with."""

    refused: ClassVar[Mapping[str, str]] = {
        name: f"it is a key of the pool itself; move it there from `machines`, as pools.NAME.{name}"
        for name in ("num_nodes", "accelerator_memory_gib")
    }

    cpus_per_node: Cores
    """CPU cores of each machine."""

    memory_gib_per_node: Gib
    """Host memory of each machine, in GiB."""

    accelerators_per_node: Gpus = 0
    """GPUs of each machine."""

    network_gbps_per_node: float | None = Field(default=None, gt=0, le=1e6)
    """Network bandwidth of each machine, in Gbit/s in each direction."""

    price_per_node_hour: float | None = Field(default=None, ge=0, le=1e9)
    """Price of a machine for an hour; with it `concord plan` says what a run costs."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """Currency of the price, by its ISO 4217 code."""


class KindConfig(Config):
    """One kind of machine, and how training and parallel work use it."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    """What the ranks compute on. `gpu`: a machine without one is refused. `auto`: GPUs if any node of the pool has
    one, and only those where `accelerator`, or `accelerators_per_node` under `machines`, says that there are some."""

    accelerator: str | None = None
    """Use only nodes with this kind of GPU, by Ray's name: `H100`, `A100`, `L40S`, `GeForce-RTX-4090`... `A100-40G` and
    `A100-80G` tell the two sizes of A100 apart, which Ray does not."""

    accelerator_memory_gib: Gib | None = None
    """Memory of each GPU, in GiB. Left out: what the nodes' drivers say, or for a plan that of the `accelerator`."""

    num_nodes: Nodes | None = None
    """Number of machines: what `concord plan` calculates with, and what a run waits for on a cluster that grows.
    Left out: those that are there, and 1 for a plan where `machines` describes it."""

    untested: bool = False
    """Use accelerators of a maker on whose devices Concord never ran: AMD, Intel, Gaudi. They are refused otherwise."""

    conform: PathText | None = Field(default=None, min_length=1)
    """A record that `concord conform` wrote on one of these machines. `concord plan` reckons with the speed in it where
    the store has no training to compare with."""

    labels: dict[str, str] = {}
    """Use only nodes with these Ray labels (`ray start --labels`)."""

    slurm: SlurmNodesConfig | None = None
    """What a Slurm job asks for of these nodes, where it differs from `launcher`."""

    kubernetes: KubernetesNodesConfig | None = None
    """What a RayJob asks for of these worker pods, where it differs from `launcher`."""

    machines: MachinesConfig | None = None
    """What each machine of the pool is. Left out: that is known only when the cluster is reached."""

    num_ranks: int | None = Field(default=None, ge=1)
    """Number of training processes. Left out: one for each GPU, or without GPUs one for every two CPU cores."""

    min_ranks: int | None = Field(default=None, ge=1)
    """Smallest number of ranks of an elastic training: it goes on with fewer ranks when nodes are lost, down to this
    number, and with more when nodes join, up to num_ranks. Left out: training is not elastic, and waits for the number
    of ranks that it began with."""

    cpus_per_rank: int | None = Field(default=None, ge=1)
    """CPU cores, and threads, of each training process. Left out: the cores are shared evenly among the ranks."""

    oversubscribe: bool = False
    """Let ranks share CPU cores where there are fewer than they ask for: slow, but enough to try many ranks on a small
    machine, or to use all GPUs of one with few cores."""

    cpus_per_task: int = Field(default=1, ge=1)
    """CPU cores of one item of parallel work, such as cleaning one file."""

    zero_stage: Literal[0, 1, 2, 3] | None = None
    """DeepSpeed ZeRO stage: what is sharded over the ranks. 0 nothing, 1 optimizer state, 2 also gradients,
    3 also parameters. Left out: the lowest from 1 that fits, as `concord plan` shows it."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Sequences in one forward and backward pass on one rank; gradients are accumulated over the rest of the batch.
    Left out: as many as fit, as `concord plan` shows it."""

    offload_optimizer: bool = False
    """Keep the optimizer's weights and moments in host memory and update them there (AdamW by DeepSpeed's CPUAdam,
    which is compiled at first use). For ZeRO stages 1 to 3."""

    activation_checkpointing: bool | None = None
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third more time. Left
    out: they are kept; where the pool has `members` they are recomputed on those kinds where that makes a step faster
    or lets it fit, as `concord plan` shows it."""

    compile: bool = False
    """Compile each layer with torch.compile: faster steps after a slower first one."""

    attention: Literal[
        "auto", "flash_attention_3", "flash_attention_2", "varlen", "flex_attention", "sdpa", "eager"
    ] = "auto"
    """Which implementation of attention to use. `auto`: the fastest that is there and gives right numbers, in the order
    of this list: packages that you install, PyTorch's own flash kernel `varlen` (each needs a GPU and bf16),
    `flex_attention` (needs a GPU), `sdpa` and `eager`, which take a mask over all pairs of tokens."""

    deterministic: bool = False
    """Compute by deterministic kernels only, which are slower on GPUs: on the same devices the same run gives bit for
    bit the same numbers. An operation that has none ends the training with a sentence that names it."""

    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """Keys of DeepSpeed's own configuration, by its names: how the ranks communicate and what they buffer."""

    retention: RetentionConfig = RetentionConfig()
    """Which checkpoints stay on disk."""

    hang_timeout_seconds: float = Field(default=600, gt=0)
    """Seconds without progress after which a rank is ended, with the stack of every rank written down; the first step,
    which may compile, gets three times as long."""

    grace_seconds: float = Field(default=60, gt=0)
    """Seconds in which training, on SIGTERM or SIGUSR1 (pre-emption), saves a checkpoint and ends with exit code 75."""

    warm_spares: bool = True
    """Keep for each rank a spare process with the libraries already loaded, which replaces it when ranks are lost."""

    max_restarts: int = Field(default=3, ge=0)
    """How many times a lost worker or a lost group of ranks is started again before the attempt fails."""

    start_timeout_seconds: float = Field(default=300, gt=0)
    """Seconds to wait for the resources of a group of ranks."""

    balance: Literal["auto", "even", "speed"] = "auto"
    """How a step's sequences are shared among ranks. `speed`: so that the step takes least, by what passes take on each
    device, which is measured when a training starts and watched from then on. `even`: as many each. `auto`: by speed
    where the pool has `members`, unless it is `deterministic`. Which samples a step reads hangs on none of it."""

    emulated_seconds_per_sequence: float | None = Field(default=None, gt=0, le=3600)
    """Let each pass take so many seconds a sequence more, as on a slower device: to try unlike devices on one machine.
    Only on CPUs."""

    @property
    def wants_gpus(self) -> bool:
        """Whether GPUs are asked for, so that computing on CPUs in their place would be a mistake."""
        described = self.machines is not None and self.machines.accelerators_per_node > 0
        return self.device == "gpu" or (self.device == "auto" and (self.accelerator is not None or described))


_OF_THE_JOB = (
    "min_ranks",
    "cpus_per_task",
    "zero_stage",
    "offload_optimizer",
    "compile",
    "deterministic",
    "deepspeed",
    "retention",
    "hang_timeout_seconds",
    "grace_seconds",
    "warm_spares",
    "max_restarts",
    "start_timeout_seconds",
    "balance",
)
"""Keys that are the same for all ranks of a training, so that the members of a pool cannot differ in them."""


class PoolConfig(KindConfig):
    """Machines that work together: of one kind, or of several, its members."""

    members: tuple[KindConfig, ...] = ()
    """Unlike kinds of machines that train one model together, each with the keys of a pool; what one leaves out is as
    in the pool. `min_ranks` is then for all members together. Left out: the pool is of one kind."""

    @field_serializer("members")
    def _only_what_is_set(self, members: tuple[KindConfig, ...]) -> list[dict[str, JsonValue]]:
        """Write no defaults: read back, a key that a member leaves out is still as in the pool."""
        return [member.model_dump(mode="json", exclude_unset=True) for member in members]

    def kinds(self) -> tuple["PoolConfig", ...]:
        """Return a pool of one kind for each member, with what it leaves out filled in; without members the pool."""
        if not self.members:
            return (self,)
        shared = self.model_dump(exclude_unset=True, exclude={"members", "min_ranks"})
        return tuple(PoolConfig(**shared | member.model_dump(exclude_unset=True)) for member in self.members)

    @property
    def most_ranks(self) -> int | None:
        """The number of ranks that the pool asks for, of all members; None if that of any is left to what there is."""
        numbers = [kind.num_ranks for kind in self.kinds()]
        return None if None in numbers else sum(filter(None, numbers))

    @model_validator(mode="after")
    def _members_go_together(self) -> Self:
        if len(self.members) == 1:
            raise ValueError("members has one kind of machine; write its keys in the pool itself, without `members`")
        for number, member in enumerate(self.members, 1):
            for key in sorted(member.model_fields_set & set(_OF_THE_JOB)):
                if getattr(member, key) != getattr(self, key):
                    raise ValueError(
                        f"members: number {number} has a `{key}` of its own, which all share; set it in the pool"
                    )
        if not self.members:
            return self
        for number, _ in enumerate(self.members):
            try:
                self.model_copy(update={"members": self.members[number : number + 1]}).kinds()
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"members: number {number + 1}: {reason}") from None
        makers = {maker_of(kind.accelerator) for kind in self.kinds() if kind.accelerator}
        if len(makers) > 1:
            raise ValueError(
                f"members have GPUs of {' and '.join(sorted(makers))}, which cannot train together: no library of "
                "theirs talks to the other's; put them into pools of their own"
            )
        if len({kind.wants_gpus for kind in self.kinds()}) > 1:
            raise ValueError(
                "members have GPUs and CPUs, which cannot train together; give each an `accelerator`, or all "
                "device: cpu"
            )
        recomputing = {kind.activation_checkpointing for kind in self.kinds()}
        if self.zero_stage == 3 and {True, False} <= recomputing:
            raise ValueError(
                "members differ in activation_checkpointing, which ZeRO stage 3 does not allow: its ranks gather "
                "weights at the same times; set it in the pool"
            )
        return self

    @model_validator(mode="after")
    def _device_fits_the_machines(self) -> Self:
        if self.members:
            return self  # each of them does
        gpus = self.machines.accelerators_per_node if self.machines else None
        if self.device == "cpu" and self.accelerator:
            raise ValueError(f"accelerator {self.accelerator} is for GPUs, and device is cpu; leave one of them out")
        if self.wants_gpus and gpus == 0:
            raise ValueError("the pool wants GPUs, and its machines have none; set machines.accelerators_per_node")
        maker = maker_of(self.accelerator)
        if maker != "NVIDIA" and not self.untested:
            raise ValueError(
                f"accelerator {self.accelerator} is of {maker}, on whose devices Concord never ran; set untested: true "
                "to try it, and tell us what you find"
            )
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.min_ranks and (most := self.most_ranks) and self.min_ranks > most:
            raise ValueError(f"min_ranks is {self.min_ranks}, more than num_ranks, {most}")
        if self.deterministic and self.balance == "speed":
            raise ValueError(
                "balance: speed hangs on what is measured, and deterministic is true; leave one of them out"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer is for ZeRO stages 1 to 3; set zero_stage to one, or leave it out")
        return self

    @model_validator(mode="after")
    def _keys_of_deepspeed_fit_the_others(self) -> Self:
        zero = self.deepspeed.zero_optimization
        if zero.offload_optimizer is not None and not self.offload_optimizer:
            raise ValueError("deepspeed.zero_optimization.offload_optimizer is for offload_optimizer: true; set it too")
        if (zero.zero_hpz_partition_size or 1) > 1 and self.zero_stage != 3:
            raise ValueError(
                "deepspeed.zero_optimization.zero_hpz_partition_size is for ZeRO stage 3; set zero_stage: 3"
            )
        if self.zero_stage is not None and (unused := zero.unused_in(self.zero_stage)):
            key, stages = unused
            raise ValueError(
                f"deepspeed.zero_optimization.{key} does nothing in ZeRO stage {self.zero_stage}; leave it out, or set "
                f"zero_stage: {' or '.join(map(str, stages))}"
            )
        if (zero.zero_hpz_partition_size or 1) > 1 and self.min_ranks:
            raise ValueError(
                "deepspeed.zero_optimization.zero_hpz_partition_size does not divide every number of ranks that "
                "min_ranks allows; leave one of the two out"
            )
        return self
