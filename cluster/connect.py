"""Makes executors from a cluster file, one a pool. Ray is imported only when work is to be done on it."""

from cluster.executor import Executor
from cluster.inline import InlineExecutor
from cluster.ray.quarantine import NodeFailures
from configs.cluster import ClusterConfig


def executor_for(
    cluster: ClusterConfig,
    pool: str,
    *,
    failures: NodeFailures | None = None,
    avoid: frozenset[str] = frozenset(),
) -> Executor:
    """Make the executor of a pool that the cluster file names.

    `failures` remembers the nodes that fail; `avoid` names more hosts to leave out, by name or address.
    """
    if cluster.executor == "inline":
        return InlineExecutor(cluster.pool(pool), wandb=cluster.wandb)
    from cluster.ray.executor import RayExecutor

    return RayExecutor(
        cluster.pool(pool), address=cluster.ray_address, wandb=cluster.wandb, failures=failures, avoid=avoid
    )


def join_cluster(cluster: ClusterConfig) -> None:
    """Join the Ray that the cluster file names, or start one, which lives as long as this thread; once in a process.

    Ray sets handlers of signals, which only the main thread can take back.
    """
    if cluster.executor == "ray":
        from cluster.ray.connection import connect

        connect(cluster.ray_address)
