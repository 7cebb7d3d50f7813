"""The machines of a pool, for a plan: as the cluster file describes them, this one, or those of a Ray that runs."""

from dataclasses import replace

from cluster.host.limits import count_gpus, this_machine
from cluster.inline import InlineExecutor
from cluster.machines import Node, described
from cluster.members import place_pool
from cluster.placement import Placement
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.launchers import KubernetesLauncher, Launcher, LocalLauncher, SlurmLauncher, kubernetes_for, slurm_for
from configs.pools import MachinesConfig, PoolConfig


def lay_out(cluster: ClusterConfig, name: str) -> tuple[list[Node], Placement]:
    """Return the nodes of a pool, and how it is laid out on them. Joins a Ray only if the file does not describe them.

    Raises UserError if nothing is known of the nodes, ConfigError if the pool asks for more than they have.
    """
    pool = cluster.pool(name)
    if cluster.executor == "inline":
        placement = InlineExecutor(pool, wandb=cluster.wandb).placement()
        return [this_machine(count_gpus())], placement
    nodes = [_nodes(cluster, name, kind, number) for number, kind in enumerate(pool.kinds())]
    placement = place_pool(pool, nodes, wandb=cluster.wandb)
    return list({node.id or node.host: node for found in nodes for node in found}.values()), placement


def are_known(cluster: ClusterConfig, name: str) -> bool:
    """Return whether the machines of a pool are known from here: no Ray must be joined to ask for them."""
    if cluster.executor == "inline" or all(_described_pool(cluster, kind) for kind in cluster.pool(name).kinds()):
        return True
    return isinstance(cluster.launcher, LocalLauncher) and cluster.ray_address == "local"


def _nodes(cluster: ClusterConfig, name: str, kind: PoolConfig, number: int) -> list[Node]:
    if (pool := _described_pool(cluster, kind)) is not None:
        return [replace(node, id=f"{number}:{node.host}") for node in described(pool)]  # each kind has its own
    if not isinstance(cluster.launcher, LocalLauncher):
        raise UserError(
            f"the cluster file says nothing of the machines of pool {name!r}, which `concord plan` reckons with; "
            f"describe them under pools.{name}.machines{_or_ask(cluster.launcher)}"
        )
    return [this_machine(count_gpus())] if cluster.ray_address == "local" else _nodes_of_ray(cluster.ray_address, kind)


def _described_pool(cluster: ClusterConfig, pool: PoolConfig) -> PoolConfig | None:
    """Return a pool with its machines, of which the launcher says what it asks for; None if they are not known."""
    if pool.machines is not None:
        return pool
    launcher: Launcher = cluster.launcher
    if isinstance(launcher, SlurmLauncher):
        launcher = slurm_for(launcher, pool)
    elif isinstance(launcher, KubernetesLauncher):
        launcher = kubernetes_for(launcher, pool)
    if isinstance(launcher, SlurmLauncher) and launcher.cpus_per_node and launcher.memory_gib_per_node:
        machines = MachinesConfig(
            cpus_per_node=launcher.cpus_per_node,
            memory_gib_per_node=launcher.memory_gib_per_node,
            accelerators_per_node=launcher.gpus_per_node or _gpus_of_gres(launcher),
        )
        return pool.model_copy(update={"machines": machines, "num_nodes": pool.num_nodes or launcher.num_nodes})
    if isinstance(launcher, KubernetesLauncher) and launcher.num_workers != 0:
        machines = MachinesConfig(
            cpus_per_node=launcher.cpus_per_worker,
            memory_gib_per_node=launcher.memory_gib_per_worker,
            accelerators_per_node=launcher.gpus_per_worker,
        )
        return pool.model_copy(update={"machines": machines, "num_nodes": pool.num_nodes or launcher.num_workers})
    return None


def _or_ask(launcher: Launcher) -> str:
    missing = []
    if isinstance(launcher, SlurmLauncher):
        missing = [key for key in ("cpus_per_node", "memory_gib_per_node") if getattr(launcher, key) is None]
    return f", or set {' and '.join(missing)} for the launcher" if missing else ""


def _gpus_of_gres(launcher: SlurmLauncher) -> int:
    """Return the GPUs of a node that the option `gres` of sbatch asks for: `gpu:4`, `gpu:a100:4`; 0 without."""
    asked = [part.split(":") for part in launcher.options.get("gres", "").split(",")]
    numbers = [int(part[-1]) if part[-1].isdigit() else 1 for part in asked if part[0] == "gpu"]
    return sum(numbers)


def _nodes_of_ray(address: str, pool: PoolConfig) -> list[Node]:
    from cluster.ray.connection import connect
    from cluster.ray.nodes import nodes_of

    connect(address)
    return nodes_of(pool)
