"""Ray's nodes, as placement needs them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from cluster.devices import memory_bytes_by_ray_name
from cluster.machines import Node
from configs.pools import PoolConfig

ACCELERATOR = "ray.io/accelerator-type"
NODE_ID = "ray.io/node-id"
MAX_NODES_NAMED = 8
"""How many nodes a message names."""


def nodes_of(pool: PoolConfig) -> list[Node]:
    """List the nodes that live and that a pool may use."""
    return [node for node in live_nodes() if _is_of(pool, node)]


def live_nodes() -> list[Node]:
    """List all nodes that live, by Ray's account."""
    return [_node(raw) for raw in ray.nodes() if raw["Alive"]]


def driver_node() -> Node:
    """Return the node that this process, the driver, is on."""
    own_id = ray.get_runtime_context().get_node_id()
    return next(_node(raw) for raw in ray.nodes() if raw["NodeID"] == own_id)


def free_resources(nodes: Sequence[Node]) -> list[Node]:
    """Return the same nodes with only those cores and GPUs that nobody uses now."""
    free = available_resources_per_node()
    return [_with_resources(node, free.get(node.id, {})) for node in nodes]


def label_selector(pool: PoolConfig, *, avoided: Sequence[Node]) -> dict[str, str]:
    """Return Ray's label selector for work of a pool: its nodes but the avoided ones."""
    wanted = dict(pool.labels)
    if pool.accelerator:
        wanted[ACCELERATOR] = pool.accelerator
    if avoided:
        wanted[NODE_ID] = f"!in({', '.join(sorted(node.id for node in avoided))})"
    return wanted


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Describe nodes and what is free of each in a few words."""
    free = {node.id: node for node in free_resources(nodes)}
    words = [_describe_node(node, free[node.id]) for node in nodes[:MAX_NODES_NAMED]]
    more = [f"and {len(nodes) - MAX_NODES_NAMED} more"] if len(nodes) > MAX_NODES_NAMED else []
    return ", ".join(words + more) or "none"


def _describe_node(node: Node, free: Node) -> str:
    gpus = f" and {free.num_gpus} of {node.num_gpus} GPUs" if node.num_gpus else ""
    return f"{node.host} with {free.num_cpus} of {node.num_cpus} cores{gpus} free"


def _is_of(pool: PoolConfig, node: Node) -> bool:
    return pool.accelerator in (None, node.accelerator) and pool.labels.items() <= node.labels.items()


def _with_resources(node: Node, resources: Mapping[str, float]) -> Node:
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
        accelerator_bytes=memory_bytes_by_ray_name(kind),
        labels=labels,
        id=raw["NodeID"],
        address=f"{raw['NodeManagerAddress']}:{raw['NodeManagerPort']}",
    )
