"""Lays a pool's work out on its machines. Pure; nothing of a placement enters the identity of an artifact."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from cluster.devices import capability_by_ray_name, rays_spelling
from cluster.machines import Node
from configs.base import GIB, ConfigError
from configs.cluster import WandbConfig
from configs.deepspeed import DeepSpeedConfig
from configs.pools import Maker, PoolConfig, RetentionConfig, maker_of


class TooFew(ConfigError):
    """The machines there are do not hold as many ranks as a pool asks for."""


@dataclass(frozen=True)
class Placement:
    """How a step is laid out on hardware."""

    num_ranks: int
    """The number of ranks to begin with."""

    min_ranks: int
    """Elastic training goes on with so few when nodes are lost; num_ranks where it is not elastic."""

    device: str
    """PyTorch's type of the device: `cpu`, `cuda` (NVIDIA, AMD), `xpu` (Intel) or `hpu` (Gaudi)."""

    cpus_per_rank: int
    """Threads of a rank."""

    cpu_share: float
    """CPU cores that a rank takes of its node: fewer than its threads where the pool oversubscribes."""

    cpus_per_task: int
    num_tasks: int
    """The number of items of parallel work at a time."""

    zero_stage: int
    micro_batch_size: int
    offload_optimizer: bool
    activation_checkpointing: bool
    compile: bool
    attention: str
    deterministic: bool
    deepspeed: DeepSpeedConfig
    retention: RetentionConfig
    hang_timeout_seconds: float
    warm_spares: bool
    max_restarts: int
    start_timeout_seconds: float
    grace_seconds: float
    wandb: WandbConfig | None
    leaves_open: tuple[str, ...] = ()
    """Open is zero_stage (until then 1), micro_batch_size (8) and, of a member, activation_checkpointing (false)."""

    memory_bytes_per_rank: int | None = None
    """Memory of its GPU, or on CPUs its share of the host's; None where that is not known."""

    host_bytes_per_rank: int | None = None
    """Its share of the host's memory."""

    found: str = ""
    """In a few words, what it was laid out on, and what is missing of what the pool describes."""

    capability: tuple[int, int] | None = None
    """The least compute capability of its GPU (cluster/devices.py); None where that is not known."""

    balance: Literal["even", "speed"] = "even"
    """How a step's sequences are shared among the ranks."""

    emulated_seconds_per_sequence: float | None = None
    """What a sequence of a pass takes more."""

    kind: str = ""
    """What the devices are called where there are several kinds."""

    accelerator: str = ""
    """Ray's name of a member's GPUs; empty on CPUs, and where it is not known or there are several."""

    hosts: tuple[str, ...] = ()
    """Names of a member's machines on CPUs; empty on GPUs, and where the cluster file describes the machines."""

    network_gbps_per_node: float | None = None
    """Network of a machine of a member in Gbit/s each way; None where the cluster file does not say it."""

    num_expected: int = 0
    """The ranks that an elastic member without any now has once its machines join."""

    left_out: str = ""
    """Why the ranks of a member take no part in a training; empty if they do."""

    members: tuple["Placement", ...] = ()
    """The layout of each kind of a pool that has several, in the order of ranks; one without ranks now has 0. What is
    said of a rank above is then the least of any, and `num_ranks` counts all."""

    @property
    def largest_micro_batch(self) -> int:
        """The most sequences of a pass on any rank."""
        return max((one.micro_batch_size for one in self.members if not one.left_out), default=self.micro_batch_size)

    def member_of(self, rank: int, counts: Sequence[int]) -> int:
        """Return which of the members a rank is of, where each has so many ranks; 0 without members."""
        return bisect_right(list(accumulate(counts)), rank) if self.members else 0

    def of_member(self, member: int) -> "Placement":
        """Return the layout of the ranks of a member: its own devices, and what all share."""
        if not self.members:
            return self
        shared = {name: getattr(self, name) for name in ("num_ranks", "min_ranks", "zero_stage", "num_tasks")}
        return replace(self.members[member], **shared, leaves_open=self.leaves_open)


def place(pool: PoolConfig, nodes: Sequence[Node], *, wandb: WandbConfig | None) -> Placement:
    """Lay a pool out on its nodes; an elastic pool gets what there is of them, down to its min_ranks.

    Raises TooFew if it asks for more, ConfigError if its settings do not go together.
    """
    _check_nodes(pool, nodes)
    device = device_of(pool, nodes)
    num_ranks = pool.num_ranks or _default_ranks(nodes, device, oversubscribe=pool.oversubscribe)
    cpus_per_rank = pool.cpus_per_rank or _even_share(nodes, num_ranks, device)
    cpu_share = _cpu_share(nodes, num_ranks, cpus_per_rank, device) if pool.oversubscribe else float(cpus_per_rank)
    num_slots = count_slots(nodes, cpus_per_rank=cpu_share, device=device)
    if pool.min_ranks:
        num_ranks = max(pool.min_ranks, min(num_ranks, num_slots))
    if not num_ranks or num_ranks > num_slots:
        sharing = "" if pool.oversubscribe else ", or let ranks share cores with oversubscribe: true"
        raise TooFew(
            f"the pool wants {num_ranks or 'any'} ranks of {cpus_per_rank} CPU cores, but there are "
            f"{describe_machines(nodes)}; lower num_ranks or cpus_per_rank in the cluster file{sharing}"
        )
    _check_ranks(pool, num_ranks, device)
    cpus_per_task = min(pool.cpus_per_task, max(node.num_cpus for node in nodes))
    host_bytes = _host_bytes(nodes, num_ranks, cpus_per_rank=cpu_share, device=device)
    return Placement(
        num_ranks=num_ranks,
        min_ranks=pool.min_ranks or num_ranks,
        device=device,
        cpus_per_rank=cpus_per_rank,
        cpu_share=cpu_share,
        cpus_per_task=cpus_per_task,
        num_tasks=sum(node.num_cpus // cpus_per_task for node in nodes),
        zero_stage=1 if pool.zero_stage is None else pool.zero_stage,
        micro_batch_size=pool.micro_batch_size or 8,
        activation_checkpointing=bool(pool.activation_checkpointing),
        wandb=wandb,
        leaves_open=tuple(name for name in ("zero_stage", "micro_batch_size") if getattr(pool, name) is None),
        memory_bytes_per_rank=host_bytes if device == "cpu" else _gpu_bytes(pool, nodes),
        host_bytes_per_rank=host_bytes,
        capability=_capability(nodes),
        balance="speed" if pool.balance == "speed" else "even",
        **{name: getattr(pool, name) for name in _AS_THE_POOL_SAYS.split()},
    )


_AS_THE_POOL_SAYS = (
    "offload_optimizer compile attention deterministic deepspeed retention warm_spares "
    "hang_timeout_seconds max_restarts start_timeout_seconds grace_seconds emulated_seconds_per_sequence"
)
"""Fields of a placement that are keys of the pool."""


def _check_nodes(pool: PoolConfig, nodes: Sequence[Node]) -> None:
    """Raise ConfigError if there is no such kind of nodes, or TooFew if there are none."""
    if pool.accelerator and (spelled := rays_spelling(pool.accelerator)) is not None:
        raise ConfigError(
            f"the pool's accelerator is {pool.accelerator!r}, which Ray calls {spelled!r}; write accelerator: {spelled}"
        )
    if not nodes:
        kind = f" with accelerator {pool.accelerator}" if pool.accelerator else ""
        raise TooFew(
            f"there is no node{kind} here for the pool; correct `accelerator` and `labels` in the cluster file, or "
            "start the run where such nodes are, by `concord submit`"
        )


def device_of(pool: PoolConfig, nodes: Sequence[Node]) -> str:
    """Return PyTorch's type of the device that the ranks of a pool compute on.

    Raises TooFew if the pool wants GPUs and there are none, ConfigError if there are several makers' or one whose
    devices are untested.
    """
    makers = sorted({maker_of(node.accelerator) for node in nodes if node.num_gpus})
    if pool.device == "cpu":
        return "cpu"
    if not makers:
        if not pool.wants_gpus:
            return "cpu"
        raise TooFew(
            f"the pool wants GPUs, and the driver finds none on {describe_machines(nodes)}; see what nvidia-smi says "
            "there, or compute on CPUs with device: cpu in the pool"
        )
    if len(makers) > 1:
        raise ConfigError(
            f"the pool's nodes have GPUs of {' and '.join(makers)}, which cannot train together; choose one kind with "
            "`accelerator` in the pool"
        )
    (maker,) = makers
    if maker != "NVIDIA" and not pool.untested:
        raise ConfigError(
            f"the pool's GPUs are of {maker}, on whose devices Concord never ran; set untested: true in the pool to "
            "try them, or compute on CPUs with device: cpu"
        )
    return _DEVICES[maker]


_DEVICES: dict[Maker, str] = {"NVIDIA": "cuda", "AMD": "cuda", "Intel": "xpu", "Gaudi": "hpu"}

SHARES = 10_000
"""Ray counts in ten-thousandths of a core."""

MAX_RANKS_ON_A_CORE = 64


def count_slots(nodes: Sequence[Node], *, cpus_per_rank: float, device: str) -> int:
    """Count the ranks that fit, each on one node with its cores and, on GPUs, a GPU of its own."""
    kinds = Counter((node.num_cpus, node.num_gpus) for node in nodes)
    share = round(cpus_per_rank * SHARES)
    return sum(
        count * (cpus * SHARES // share if device == "cpu" else min(cpus * SHARES // share, gpus))
        for (cpus, gpus), count in kinds.items()
    )


def describe_found(pool: PoolConfig, nodes: Sequence[Node], placement: Placement) -> str:
    """Say in one line what a pool is laid out on, and what is missing of the machines that it describes."""
    number = f"{placement.num_ranks} rank{'s' if placement.num_ranks > 1 else ''}"
    if placement.device == "cpu":
        why = "as the pool says" if pool.device == "cpu" else "no GPU was found"
        text = f"{number} on the CPUs of {describe_machines(nodes)} ({why})"
    else:
        kinds = ", ".join(sorted({node.accelerator or "of an unknown kind" for node in nodes if node.num_gpus}))
        text = f"{number} on the GPUs of {describe_machines(nodes)} ({kinds})"
        if (idle := sum(node.num_gpus for node in nodes) - placement.num_ranks) > 0 and pool.num_ranks is None:
            text += f"; {idle} of them idle for want of cores (oversubscribe: true in the pool lets ranks share some)"
    missing = missing_machines(pool, nodes)
    return f"{text}; MISSING of the pool's machines: {missing}" if missing else text


def missing_machines(pool: PoolConfig, nodes: Sequence[Node]) -> str:
    """Say which nodes and GPUs are missing of those that a pool describes; empty if none is."""
    found = []
    if len(nodes) < (num_nodes := pool.num_nodes or (1 if pool.machines else 0)):
        found.append(f"{num_nodes - len(nodes)} of {num_nodes} nodes")
    gpus = pool.machines.accelerators_per_node if pool.machines and pool.device != "cpu" else 0
    short = [node for node in nodes if node.num_gpus < gpus]
    found += [f"{node.host} has {node.num_gpus} of {gpus} GPUs" for node in short[:4]]
    found += [f"so have {len(short) - 4} more nodes fewer"] if len(short) > 4 else []
    return ", ".join(found)


def describe_machines(nodes: Sequence[Node]) -> str:
    """Describe the machines in a few words: `2 nodes with 8 cores and 4 GPUs, 1 node with 2 cores`."""
    kinds = Counter((node.num_cpus, node.num_gpus) for node in nodes)
    words = [
        f"{count} node{'s' if count > 1 else ''} with {cpus} cores" + (f" and {gpus} GPUs" if gpus else "")
        for (cpus, gpus), count in kinds.items()
    ]
    return ", ".join(words) or "no nodes"


def _default_ranks(nodes: Sequence[Node], device: str, *, oversubscribe: bool) -> int:
    """Count one rank a GPU, or without GPUs one for each two cores of a node."""
    if device != "cpu":
        return sum(node.num_gpus if oversubscribe else min(node.num_gpus, node.num_cpus) for node in nodes)
    return sum(max(1, node.num_cpus // 2) for node in nodes if node.num_cpus)


def _even_share(nodes: Sequence[Node], num_ranks: int, device: str) -> int:
    """Find the most cores that every rank can have."""
    counts = range(1, max((node.num_cpus for node in nodes), default=1) + 1)
    too_many = bisect_left(counts, True, key=lambda c: count_slots(nodes, cpus_per_rank=c, device=device) < num_ranks)
    return max(1, too_many)


def _cpu_share(nodes: Sequence[Node], num_ranks: int, cpus_per_rank: int, device: str) -> float:
    """Find the most cores, or the largest fraction 1/n of one, with which so many ranks fit if any fraction does."""
    shares = [float(cpus_per_rank), *(SHARES // number / SHARES for number in range(1, MAX_RANKS_ON_A_CORE + 1))]
    fits = (share for share in shares if count_slots(nodes, cpus_per_rank=share, device=device) >= num_ranks)
    return next(fits, float(cpus_per_rank))


def _gpu_bytes(pool: PoolConfig, nodes: Sequence[Node]) -> int | None:
    """Return the memory of the smallest GPU, as the pool says it or else the nodes do; None if it is not known."""
    if pool.accelerator_memory_gib is not None:
        return int(pool.accelerator_memory_gib * GIB)
    sizes = {node.accelerator_bytes for node in nodes if node.num_gpus}
    return None if None in sizes else min(size for size in sizes if size)


def _capability(nodes: Sequence[Node]) -> tuple[int, int] | None:
    """Return the least compute capability of the GPUs; None if that of any is not known."""
    found = {capability_by_ray_name(node.accelerator) for node in nodes if node.num_gpus}
    return None if None in found else min((one for one in found if one), default=None)


def _host_bytes(nodes: Sequence[Node], num_ranks: int, *, cpus_per_rank: float, device: str) -> int | None:
    """Return the smallest share of a host's memory that a rank may get; None if a host's memory is not known."""
    kinds = {(node.memory_bytes, node.num_cpus, node.num_gpus): node for node in nodes}
    counts = [(node, count_slots([node], cpus_per_rank=cpus_per_rank, device=device)) for node in kinds.values()]
    return min(node.memory_bytes // min(num_ranks, count) for node, count in counts if count) or None


def _check_ranks(pool: PoolConfig, num_ranks: int, device: str) -> None:
    """Raise ConfigError if settings of the pool do not go with the number of ranks, or their devices."""
    if device != "cpu" and pool.emulated_seconds_per_sequence:
        raise ConfigError("emulated_seconds_per_sequence is for CPUs, and the pool has GPUs; leave it out")
    size = pool.deepspeed.zero_optimization.zero_hpz_partition_size or 1
    if num_ranks % size:
        raise ConfigError(
            f"the pool's deepspeed.zero_optimization.zero_hpz_partition_size is {size}, which does not divide its "
            f"{num_ranks} ranks; set it to the number of GPUs of a machine"
        )
