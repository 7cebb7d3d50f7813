"""Ray's nodes, as placement sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from cluster.machines import Node, accelerator_bytes
from configs.pools import PoolConfig

ACCELERATOR = "ray.io/accelerator-type"
NODE_ID = "ray.io/node-id"
MOST_NAMED = 8
"""Nodes in a message."""


def nodes_of(pool: PoolConfig) -> list[Node]:
    """The nodes that live and that a pool may use."""
    return [node for node in live_nodes() if _is_of(pool, node)]


def live_nodes() -> list[Node]:
    """All nodes that live."""
    return [_node(raw) for raw in ray.nodes() if raw["Alive"]]


def free_of(nodes: Sequence[Node]) -> list[Node]:
    """The same nodes with the cores and GPUs that nobody uses now."""
    free = available_resources_per_node()
    return [_with(node, free.get(node.id, {})) for node in nodes]


def selector(pool: PoolConfig, avoided: Sequence[Node]) -> dict[str, str]:
    """Ray's label selector for work of a pool: its nodes but the avoided ones."""
    wanted = dict(pool.labels)
    if pool.accelerator:
        wanted[ACCELERATOR] = pool.accelerator
    if avoided:
        wanted[NODE_ID] = f"!in({', '.join(sorted(node.id for node in avoided))})"
    return wanted


def home() -> Node:
    """The node that this process is on."""
    me = ray.get_runtime_context().get_node_id()
    return next(_node(raw) for raw in ray.nodes() if raw["NodeID"] == me)


def tell(nodes: Sequence[Node]) -> str:
    """The nodes with what is free of each, in a few words."""
    free = {node.id: node for node in free_of(nodes)}
    words = [_tell(node, free[node.id]) for node in nodes[:MOST_NAMED]]
    more = [f"and {len(nodes) - MOST_NAMED} more"] if len(nodes) > MOST_NAMED else []
    return ", ".join(words + more) or "none"


def _tell(node: Node, free: Node) -> str:
    gpus = f" and {free.num_gpus} of {node.num_gpus} GPUs" if node.num_gpus else ""
    return f"{node.host} with {free.num_cpus} of {node.num_cpus} cores{gpus} free"


def _is_of(pool: PoolConfig, node: Node) -> bool:
    return pool.accelerator in (None, node.accelerator) and pool.labels.items() <= node.labels.items()


def _with(node: Node, resources: Mapping[str, float]) -> Node:
    return replace(node, num_cpus=int(resources.get("CPU", 0)), num_gpus=int(resources.get("GPU", 0)))


def _node(raw: dict[str, Any]) -> Node:
    resources, labels = raw["Resources"], raw["Labels"]
    kind = labels.get(ACCELERATOR)
    return Node(
        host=raw["NodeManagerHostname"],
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        accelerator=kind,
        accelerator_bytes=accelerator_bytes(kind),
        labels=labels,
        id=raw["NodeID"],
        address=f"{raw['NodeManagerAddress']}:{raw['NodeManagerPort']}",
    )
