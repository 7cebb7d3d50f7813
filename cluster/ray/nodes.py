"""Ray's nodes, as placement needs them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.devices import memory_bytes_by_ray_name
from cluster.host.limits import GpuAnswer, ask_gpus
from cluster.machines import Node
from configs.pools import PoolConfig, maker_of

ACCELERATOR = "ray.io/accelerator-type"
NODE_ID = "ray.io/node-id"
ANSWER_SECONDS = 90.0
"""How long nodes may take to say what GPUs they have: nvidia-smi takes seconds a GPU without its daemon."""

_SIZED = {"A100-40G": "A100", "A100-80G": "A100"}
"""Kinds that Ray's label does not tell apart, with that label."""

_ANSWERS: dict[str, GpuAnswer | None] = {}
"""What nodes have said of their GPUs, by Ray's id; None of those that did not answer."""

MAX_NODES_NAMED = 8
"""How many nodes a message names."""


def nodes_of(pool: PoolConfig) -> list[Node]:
    """List the nodes that live and that a pool of one kind may use."""
    nodes = [node for node in live_nodes() if _may_be_of(pool, node)]
    return [node for node in with_own_answers(nodes) if _has_size(pool, node)] if pool.accelerator in _SIZED else nodes


def nodes_by_kind(pool: PoolConfig) -> list[list[Node]]:
    """List the nodes that live of each kind of a pool. Kinds may share some."""
    return [nodes_of(kind) for kind in pool.kinds()]


def with_own_answers(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes with the memory of their GPUs as their own drivers say it, each asked once in this process.

    A node that does not answer within ANSWER_SECONDS keeps what the table says of its kind.
    """
    unknown = [node for node in nodes if node.num_gpus and node.id not in _ANSWERS]
    ask = ray.remote(ask_gpus)
    calls = {
        ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(): node
        for node in unknown
    }
    ready = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_SECONDS)[0] if calls else []
    _ANSWERS.update(dict.fromkeys((node.id for node in unknown), None))
    for call in ready:
        with suppress(RayError):  # the node has just gone
            _ANSWERS[calls[call].id] = ray.get(call)
    return [_with_answer(node, _ANSWERS.get(node.id)) for node in nodes]


def _with_answer(node: Node, answer: GpuAnswer | None) -> Node:
    known = answer.memory_bytes if answer else None
    return node if known is None else replace(node, accelerator_bytes=known)


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
    """Return Ray's label selector for work of a pool: the nodes of all its kinds but the avoided ones.

    Where labels alone do not tell those nodes from others that live now, the others are named in it.
    """
    wanted = _labels_of(pool)
    out = {node.id for node in avoided}
    if pool.members or pool.accelerator in _SIZED:  # of which Ray does not know the sizes
        good = {node.id for own in nodes_by_kind(pool) for node in own}
        out |= {node.id for node in live_nodes() if node.id not in good and _has_labels(node, wanted)}
    selector = {name: next(iter(values)) if len(values) == 1 else _one_of(values) for name, values in wanted.items()}
    return selector | ({NODE_ID: f"!{_one_of(out)}"} if out else {})


def _labels_of(pool: PoolConfig) -> dict[str, set[str]]:
    """Return which values of Ray's labels the nodes of a pool have, of those labels that all its kinds ask for."""
    asked = []
    for kind in pool.kinds():
        labels = {name: {value} for name, value in kind.labels.items()}
        accelerator = kind.accelerator
        asked.append(
            labels | ({ACCELERATOR: {accelerator, _SIZED.get(accelerator, accelerator)}} if accelerator else {})
        )
    shared = [name for name in asked[0] if all(name in one for one in asked)]
    return {name: set().union(*(one[name] for one in asked)) for name in shared}


def _has_labels(node: Node, wanted: Mapping[str, set[str]]) -> bool:
    return all(node.labels.get(name) in values for name, values in wanted.items())


def _one_of(values: set[str]) -> str:
    return f"in({', '.join(sorted(values))})"


def request_nodes(pools: Sequence[PoolConfig]) -> None:
    """Ask Ray's autoscaler for the machines that pools of one kind describe; none takes the request back.

    Without an autoscaler nothing happens. Of several kinds each is asked for with its labels, which Ray's first
    autoscaler (v1) does not read.
    """
    bundles: list[dict[str, int]] = []
    selectors: list[dict[str, str]] = []
    for pool in pools:
        machines = pool.machines
        if machines is None:
            continue
        gpu = {"NVIDIA": "GPU", "AMD": "GPU", "Intel": "GPU", "Gaudi": "HPU"}[maker_of(pool.accelerator)]
        gpus = {gpu: machines.accelerators_per_node} if machines.accelerators_per_node else {}
        bundles += [{"CPU": machines.cpus_per_node, **gpus}] * (pool.num_nodes or 1)
        selectors += [{name: _one_of(values) for name, values in _labels_of(pool).items()}] * (pool.num_nodes or 1)
    if len(pools) > 1 and bundles:
        request_resources(bundles=bundles, bundle_label_selectors=selectors)
    else:
        request_resources(bundles=bundles)


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Describe nodes and what is free of each in a few words."""
    free = {node.id: node for node in free_resources(nodes)}
    words = [_describe_node(node, free[node.id]) for node in nodes[:MAX_NODES_NAMED]]
    more = [f"and {len(nodes) - MAX_NODES_NAMED} more"] if len(nodes) > MAX_NODES_NAMED else []
    return ", ".join(words + more) or "none"


def _describe_node(node: Node, free: Node) -> str:
    gpus = f" and {free.num_gpus} of {node.num_gpus} GPUs" if node.num_gpus else ""
    return f"{node.host} with {free.num_cpus} of {node.num_cpus} cores{gpus} free"


def _may_be_of(pool: PoolConfig, node: Node) -> bool:
    kinds = (None, node.accelerator) if node.accelerator else (None,)
    has_kind = pool.accelerator in kinds or _SIZED.get(pool.accelerator or "") in kinds[1:]
    return has_kind and pool.labels.items() <= node.labels.items()


def _has_size(pool: PoolConfig, node: Node) -> bool:
    """Return whether a node's GPUs are of the size that the pool's kind has, to a tenth."""
    size = memory_bytes_by_ray_name(pool.accelerator)
    if node.accelerator == pool.accelerator or size is None:
        return True
    return node.accelerator_bytes is not None and abs(node.accelerator_bytes - size) < size / 10


def _with_resources(node: Node, resources: Mapping[str, float]) -> Node:
    return replace(node, num_cpus=int(resources.get("CPU", 0)), num_gpus=_num_gpus(resources))


def _num_gpus(resources: Mapping[str, float]) -> int:
    return int(resources.get("GPU", 0) or resources.get("HPU", 0))


def _node(raw: dict[str, Any]) -> Node:
    resources, labels = raw["Resources"], raw["Labels"]
    kind = labels.get(ACCELERATOR)
    return Node(
        host=raw["NodeManagerHostname"],
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=_num_gpus(resources),
        memory_bytes=int(resources.get("memory", 0)),
        accelerator=kind,
        accelerator_bytes=memory_bytes_by_ray_name(kind),
        labels=labels,
        id=raw["NodeID"],
        address=f"{raw['NodeManagerAddress']}:{raw['NodeManagerPort']}",
    )
