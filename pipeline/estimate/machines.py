"""The machines of a pool, for a plan: as the cluster file describes them, this one, or those of a Ray that runs."""

from cluster.inline import InlineExecutor, count_gpus, this_machine
from cluster.machines import Node, described
from cluster.placement import Placement, place
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.launchers import KubernetesLauncher, LocalLauncher, SlurmLauncher
from configs.pools import MachinesConfig, PoolConfig


def laid_out(cluster: ClusterConfig, name: str) -> tuple[list[Node], Placement]:
    """The nodes of a pool, and how it is laid out on them. Joins a Ray only where the file says nothing of them.

    Raises UserError where nothing is known of them, ConfigError if the pool asks for more than they have.
    """
    pool = cluster.pools[name]
    if cluster.executor == "inline":
        placement = InlineExecutor(pool, wandb=cluster.wandb).placement()
        return [this_machine(count_gpus())], placement
    nodes = _nodes(cluster, name)
    return nodes, place(pool, nodes, wandb=cluster.wandb)


def _nodes(cluster: ClusterConfig, name: str) -> list[Node]:
    pool = cluster.pools[name]
    machines = pool.machines or _asked_for(cluster)
    if machines is not None:
        return described(machines, pool)
    if not isinstance(cluster.launcher, LocalLauncher):
        raise UserError(
            f"the cluster file says nothing of the machines of pool {name!r}, which `concord plan` reckons with; "
            f"describe them under pools.{name}.machines"
        )
    return [this_machine(count_gpus())] if cluster.ray_address == "local" else _of_ray(cluster.ray_address, pool)


def _asked_for(cluster: ClusterConfig) -> MachinesConfig | None:
    """What the launcher asks Slurm or Kubernetes for, if it says enough of it."""
    launcher = cluster.launcher
    if isinstance(launcher, SlurmLauncher) and launcher.cpus_per_node and launcher.memory_gib_per_node:
        return MachinesConfig(
            num_nodes=launcher.num_nodes,
            cpus_per_node=launcher.cpus_per_node,
            memory_gib_per_node=launcher.memory_gib_per_node,
            accelerators_per_node=launcher.gpus_per_node or 0,
        )
    if isinstance(launcher, KubernetesLauncher) and launcher.num_workers:
        return MachinesConfig(
            num_nodes=launcher.num_workers,
            cpus_per_node=launcher.cpus_per_worker,
            memory_gib_per_node=launcher.memory_gib_per_worker,
            accelerators_per_node=launcher.gpus_per_worker,
        )
    return None


def _of_ray(address: str, pool: PoolConfig) -> list[Node]:
    from cluster.ray.connection import connect
    from cluster.ray.nodes import nodes_of

    connect(address)
    return nodes_of(pool)
