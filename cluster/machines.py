"""The machines of a pool: as a cluster file describes them, or as Ray sees them."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from cluster.devices import memory_bytes_by_ray_name
from configs.base import GIB
from configs.pools import PoolConfig


@dataclass(frozen=True)
class Node:
    """One machine, as far as placement needs to know it."""

    host: str
    """Its name or address."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int
    """Memory of the host."""

    accelerator: str | None = None
    """Ray's name of its kind of GPU."""

    accelerator_bytes: int | None = None
    """Memory of its smallest GPU, where it is known."""

    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    """Ray's id; empty for a machine that is only described."""

    address: str = ""
    """`host:port` of its raylet; empty for a machine that is only described."""

    def is_in(self, hosts: Container[str]) -> bool:
        """Return whether it is among `hosts`, each given by its name, its address, or the address of its raylet."""
        return self.host in hosts or (
            bool(self.address) and (self.address in hosts or self.address.rpartition(":")[0] in hosts)
        )


def described(pool: PoolConfig) -> list[Node]:
    """Return the machines of a pool of one kind whose `machines` the cluster file describes."""
    machines = pool.machines
    assert machines is not None
    num_gpus = machines.accelerators_per_node
    return [
        Node(
            host=f"node-{index}",
            num_cpus=machines.cpus_per_node,
            num_gpus=num_gpus,
            memory_bytes=int(machines.memory_gib_per_node * GIB),
            accelerator=pool.accelerator if num_gpus else None,
            accelerator_bytes=memory_bytes_by_ray_name(pool.accelerator) if num_gpus else None,
            labels=pool.labels,
        )
        for index in range(pool.num_nodes or 1)
    ]
