"""The bandwidth between the ranks of a pool, as its cluster file says it or as its kind of GPU has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from cluster.devices import Device
from cluster.machines import Node
from cluster.placement import Placement, count_slots
from configs.pools import PoolConfig
from training.sizing.step_time import UNKNOWN_NETWORK


@dataclass(frozen=True)
class Links:
    """What the ranks of a pool are joined by, in GB/s in one direction."""

    num_hosts: int
    """The number of nodes that the ranks take."""

    gpus: float | None
    """Between the GPUs of a machine, of each; None where that is not known."""

    network: float
    """Link of a machine with the others."""

    host: float | None
    """Between a GPU and its host."""

    source: str
    """Where the network's bandwidth comes from."""

    def near_bytes(self, placement: Placement) -> float | None:
        """Return the bytes a second of a rank to others of its machine."""
        return self.gpus * 1e9 if self.gpus and placement.num_ranks > self.num_hosts else None

    def far_bytes(self, placement: Placement) -> float | None:
        """Return the bytes a second of the slowest link of a ring through all ranks; None if not known, or for one.

        A machine's network carries a ring's bytes once, whatever the number of its GPUs (NCCL's bus bandwidth).
        """
        if placement.num_ranks == 1 or self.gpus is None:
            return None
        near = self.near_bytes(placement)
        if self.num_hosts == 1:
            return near
        return min(self.network * 1e9, near) if near else self.network * 1e9


def links_of(pool: PoolConfig, device: Device | None, nodes: Sequence[Node], placement: Placement) -> Links:
    """Return the links of a placement on the nodes of a pool."""
    hosts = nodes_taken(placement, nodes)
    links = device.links if device else None
    given = pool.machines.network_gbps_per_node if pool.machines else None
    num_gpus = max((node.num_gpus for node in nodes), default=0)
    if given is not None:
        network, source = given / 8, "network_gbps_per_node"
    elif links is not None and links.network_share is not None and device is not None:
        network = links.network_share * max(1, num_gpus)
        source = f"assumed: a reference machine of {device.driver_names[0]}; set network_gbps_per_node"
    else:
        network, source = UNKNOWN_NETWORK, "assumed; set network_gbps_per_node"
    return Links(hosts, links.gpus if links else None, network, links.host if links else None, source)


def nodes_taken(placement: Placement, nodes: Sequence[Node]) -> int:
    """Return the number of nodes that the ranks take when they fill node after node."""
    left, taken = placement.num_ranks, 0
    for node in nodes:
        if left <= 0:
            break
        left -= count_slots([node], cpus_per_rank=placement.cpu_share, device=placement.device)
        taken += 1
    return taken


def describe_links(links: Links, placement: Placement) -> str:
    """Return the bandwidth that ranks exchange with, in words; empty for one rank, and on CPUs."""
    if placement.num_ranks == 1 or placement.device == "cpu":
        return ""
    if links.gpus is None:
        return "not reckoned: the links of this GPU are not known"
    near = f"{links.gpus:g} GB/s between the {ceil(placement.num_ranks / links.num_hosts)} GPUs of a node"
    if links.num_hosts == 1:
        return f"{near} (its data sheet)"
    far = f"{links.network * 8:,.0f} Gbit/s from node to node ({links.source})"
    return far if placement.num_ranks == links.num_hosts else f"{near} (its data sheet), {far}"
