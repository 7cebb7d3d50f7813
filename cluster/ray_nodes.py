"""Ray's nodes, as placement sees them."""

from typing import Any

import ray

from cluster.topology import Node, accelerator_bytes
from configs.pools import PoolConfig

ACCELERATOR = "accelerator_type:"
"""Ray 2.60 names a node's kind of GPU in a resource that begins so."""


def nodes_of(pool: PoolConfig) -> list[Node]:
    """The nodes that live and that a pool may use."""
    nodes = [_node(raw) for raw in ray.nodes() if raw["Alive"]]
    return [
        node
        for node in nodes
        if pool.accelerator in (None, node.accelerator) and pool.labels.items() <= node.labels.items()
    ]


def _node(raw: dict[str, Any]) -> Node:
    resources = raw["Resources"]
    kind = next((name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)), None)
    return Node(
        host=raw["NodeManagerHostname"],
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        accelerator=kind,
        accelerator_bytes=accelerator_bytes(kind),
        labels=raw["Labels"],
        id=raw["NodeID"],
    )
