"""The machines of a pool: as a cluster file describes them, or as Ray sees them."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from configs.pools import MachinesConfig, PoolConfig

GIB = 2**30

_GPU_GIB: Mapping[str, float] = {
    "H200": 141,
    "H100": 80,
    "H20": 96,
    "GH200": 96,
    "B200": 180,
    "A100": 40,
    "A100-40G": 40,
    "A100-80G": 80,
    "L40S": 48,
    "L4": 24,
    "A10G": 24,
    "T4": 16,
    "V100": 16,
    "AMD-Instinct-MI210": 64,
    "AMD-Instinct-MI250X": 64,  # of one of its two devices
    "AMD-Instinct-MI300X-OAM": 192,
    "AMD-Instinct-MI325X-OAM": 256,
}
"""By Ray's accelerator type, from the makers' data sheets; of a type with two sizes the smaller."""


@dataclass(frozen=True)
class Node:
    """One machine, as far as placement needs to know it."""

    host: str
    """Its name or address."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int
    """Of the host."""

    accelerator: str | None = None
    """Ray's name of its kind of GPU."""

    accelerator_bytes: int | None = None
    """Memory of one GPU, where it is known."""

    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    """Ray's id; empty for a machine that is only described."""

    address: str = ""
    """`host:port` of its raylet; empty likewise."""

    def is_in(self, hosts: Container[str]) -> bool:
        """Whether it is among hosts that are told by name, by address, or by the address of their raylet."""
        return self.host in hosts or (
            bool(self.address) and (self.address in hosts or self.address.rpartition(":")[0] in hosts)
        )


def described(machines: MachinesConfig, pool: PoolConfig) -> list[Node]:
    """The machines that the cluster file says a pool has."""
    num_gpus = machines.accelerators_per_node
    gib = machines.accelerator_memory_gib or _GPU_GIB.get(pool.accelerator or "")
    return [
        Node(
            host=f"node-{index}",
            num_cpus=machines.cpus_per_node,
            num_gpus=num_gpus,
            memory_bytes=int(machines.memory_gib_per_node * GIB),
            accelerator=pool.accelerator if num_gpus else None,
            accelerator_bytes=int(gib * GIB) if gib and num_gpus else None,
            labels=pool.labels,
        )
        for index in range(machines.num_nodes)
    ]


def accelerator_bytes(accelerator: str | None) -> int | None:
    """Memory of one GPU of a kind, by Ray's name of it; None if it is not in the table."""
    gib = _GPU_GIB.get(accelerator or "")
    return int(gib * GIB) if gib else None
