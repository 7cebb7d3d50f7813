"""From a cluster file to executors, one a pool. Ray is imported only when work is to be done on it."""

from cluster.executor import Executor
from cluster.inline import InlineExecutor
from configs.cluster import ClusterConfig


def executor_for(cluster: ClusterConfig, pool: str) -> Executor:
    """The executor of a pool that the cluster file names."""
    if cluster.executor == "inline":
        return InlineExecutor(cluster.pools[pool], wandb=cluster.wandb)
    from cluster.ray_executor import RayExecutor

    return RayExecutor(cluster.pools[pool], address=cluster.ray_address, wandb=cluster.wandb)
