"""Lays a pool's work out on its machines. Pure; nothing of a placement enters the identity of an artifact."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.devices import capability_by_ray_name
from cluster.machines import Node
from configs.base import ConfigError
from configs.cluster import WandbConfig
from configs.deepspeed import DeepSpeedConfig
from configs.pools import PoolConfig, RetentionConfig


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
    """PyTorch's type of the device: `cuda` or `cpu`, or `xpu` or `hpu`, which no pool lays out yet."""

    cpus_per_rank: int
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
    """Which of zero_stage and micro_batch_size the pool leaves to training: until it chooses they are 1 and 8."""

    memory_bytes_per_rank: int | None = None
    """Memory of its GPU, or on CPUs its share of the host's; None where that is not known."""

    host_bytes_per_rank: int | None = None
    """Its share of the host's memory."""

    capability: tuple[int, int] | None = None
    """The least compute capability of its GPU (cluster/devices.py); None where that is not known."""


def place(pool: PoolConfig, nodes: Sequence[Node], *, wandb: WandbConfig | None) -> Placement:
    """Lay a pool out on its nodes; an elastic pool gets what there is of them, down to its min_ranks.

    Raises TooFew if it asks for more, ConfigError if its settings do not go together.
    """
    _check_there_are_nodes(pool, nodes)
    device = device_of(nodes)
    num_ranks = pool.num_ranks or _default_ranks(nodes, device)
    cpus_per_rank = pool.cpus_per_rank or _even_share(nodes, num_ranks, device)
    num_slots = count_slots(nodes, cpus_per_rank=cpus_per_rank, device=device)
    if pool.min_ranks:
        num_ranks = max(pool.min_ranks, min(num_ranks, num_slots))
    if not num_ranks or num_ranks > num_slots:
        raise TooFew(
            f"the pool wants {num_ranks or 'any'} ranks of {cpus_per_rank} CPU cores, but there are "
            f"{describe_machines(nodes)}; lower num_ranks or cpus_per_rank in the cluster file"
        )
    _check_ranks(pool, num_ranks)
    cpus_per_task = min(pool.cpus_per_task, max(node.num_cpus for node in nodes))
    host_bytes = _host_bytes(nodes, num_ranks, cpus_per_rank=cpus_per_rank, device=device)
    return Placement(
        num_ranks=num_ranks,
        min_ranks=pool.min_ranks or num_ranks,
        device=device,
        cpus_per_rank=cpus_per_rank,
        cpus_per_task=cpus_per_task,
        num_tasks=sum(node.num_cpus // cpus_per_task for node in nodes),
        zero_stage=1 if pool.zero_stage is None else pool.zero_stage,
        micro_batch_size=pool.micro_batch_size or 8,
        offload_optimizer=pool.offload_optimizer,
        activation_checkpointing=pool.activation_checkpointing,
        compile=pool.compile,
        attention=pool.attention,
        deterministic=pool.deterministic,
        deepspeed=pool.deepspeed,
        retention=pool.retention,
        hang_timeout_seconds=pool.hang_timeout_seconds,
        warm_spares=pool.warm_spares,
        max_restarts=pool.max_restarts,
        start_timeout_seconds=pool.start_timeout_seconds,
        grace_seconds=pool.grace_seconds,
        wandb=wandb,
        leaves_open=tuple(name for name in ("zero_stage", "micro_batch_size") if getattr(pool, name) is None),
        memory_bytes_per_rank=host_bytes if device == "cpu" else _gpu_bytes(nodes),
        host_bytes_per_rank=host_bytes,
        capability=_capability(nodes),
    )


def _check_there_are_nodes(pool: PoolConfig, nodes: Sequence[Node]) -> None:
    if not nodes:
        kind = f" with accelerator {pool.accelerator}" if pool.accelerator else ""
        raise TooFew(
            f"there is no node{kind} here for the pool; correct `accelerator` and `labels` in the cluster file, or "
            "start the run where such nodes are, by `concord submit`"
        )


def device_of(nodes: Sequence[Node]) -> str:
    """Return what the ranks of a pool compute on: `cuda` if any node has a GPU, else `cpu`."""
    return "cuda" if any(node.num_gpus for node in nodes) else "cpu"


def count_slots(nodes: Sequence[Node], *, cpus_per_rank: int, device: str) -> int:
    """Count the ranks that fit, each on one node with its cores and, on GPUs, a GPU of its own."""
    kinds = Counter((node.num_cpus, node.num_gpus) for node in nodes)
    return sum(
        count * (min(cpus // cpus_per_rank, gpus) if device == "cuda" else cpus // cpus_per_rank)
        for (cpus, gpus), count in kinds.items()
    )


def describe_machines(nodes: Sequence[Node]) -> str:
    """Describe the machines in a few words: `2 nodes with 8 cores and 4 GPUs, 1 node with 2 cores`."""
    kinds = Counter((node.num_cpus, node.num_gpus) for node in nodes)
    words = [
        f"{count} node{'s' if count > 1 else ''} with {cpus} cores" + (f" and {gpus} GPUs" if gpus else "")
        for (cpus, gpus), count in kinds.items()
    ]
    return ", ".join(words) or "no nodes"


def _default_ranks(nodes: Sequence[Node], device: str) -> int:
    """Count one rank a GPU, or without GPUs one for each two cores of a node."""
    if device == "cuda":
        return sum(min(node.num_gpus, node.num_cpus) for node in nodes)
    return sum(max(1, node.num_cpus // 2) for node in nodes if node.num_cpus)


def _even_share(nodes: Sequence[Node], num_ranks: int, device: str) -> int:
    """Find the most cores that every rank can have."""
    counts = range(1, max((node.num_cpus for node in nodes), default=1) + 1)
    too_many = bisect_left(counts, True, key=lambda c: count_slots(nodes, cpus_per_rank=c, device=device) < num_ranks)
    return max(1, too_many)


def _gpu_bytes(nodes: Sequence[Node]) -> int | None:
    """Return the memory of the smallest GPU; None if that of any is not known."""
    sizes = {node.accelerator_bytes for node in nodes if node.num_gpus}
    return None if None in sizes else min(size for size in sizes if size)


def _capability(nodes: Sequence[Node]) -> tuple[int, int] | None:
    """Return the least compute capability of the GPUs; None if that of any is not known."""
    found = {capability_by_ray_name(node.accelerator) for node in nodes if node.num_gpus}
    return None if None in found else min((one for one in found if one), default=None)


def _host_bytes(nodes: Sequence[Node], num_ranks: int, *, cpus_per_rank: int, device: str) -> int | None:
    """Return the smallest share of a host's memory that a rank may get; None if a host's memory is not known."""
    kinds = {(node.memory_bytes, node.num_cpus, node.num_gpus): node for node in nodes}
    counts = [(node, count_slots([node], cpus_per_rank=cpus_per_rank, device=device)) for node in kinds.values()]
    return min(node.memory_bytes // min(num_ranks, count) for node, count in counts if count) or None


def _check_ranks(pool: PoolConfig, num_ranks: int) -> None:
    """Raise ConfigError if settings of the pool do not go with the number of ranks."""
    size = pool.deepspeed.zero_optimization.zero_hpz_partition_size or 1
    if num_ranks % size:
        raise ConfigError(
            f"the pool's deepspeed.zero_optimization.zero_hpz_partition_size is {size}, which does not divide its "
            f"{num_ranks} ranks; set it to the number of GPUs of a machine"
        )
