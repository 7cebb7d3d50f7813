"""The settings of a cluster file: where work runs. They are placement, not identity: no fingerprint has them."""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from configs.base import Config, Name
from configs.launchers import (
    Launcher,
    LocalLauncher,
    NodesLauncher,
    SlurmLauncher,
    kubernetes_for,
    node_groups,
    slurm_for,
)
from configs.paths import PathText
from configs.pools import PoolConfig
from configs.secrets import is_secret


def _no_secret(name: str) -> str:
    if is_secret(name):
        raise ValueError(
            f"{name} is a secret, which no file may hold: set it in the environment, and name it in `pass_environment`"
        )
    return name


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
"""Name of an environment variable."""


class WandbConfig(Config):
    """A copy of the training metrics in Weights & Biases."""

    project: str = Field(default="concord", min_length=1)
    """Project to log to."""

    entity: str | None = None
    """User or team to log as. Left out: the account's default."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """`online` sends the metrics to the service, `offline` keeps them on disk; `auto` is online if the user has an API
    key, else offline."""


class RetriesConfig(Config):
    """How many times a submitted run is started again by itself, by the cause of its end, since the last attempt that
    made progress. A user's error and a lack of memory end the run at once."""

    infrastructure: int = Field(default=5, ge=0)
    """Retries after Ray or a node has failed, or the driver was killed; also those of a driver's requests to its store,
    and of a Slurm job that lost its Ray."""

    preemption: int = Field(default=100, ge=0)
    """Retries after the run was pre-empted: its machines were taken for other work."""

    start_up: int = Field(default=3, ge=0)
    """Retries after the resources did not become free in time, or the cluster did not answer."""

    unknown: int = Field(default=2, ge=0)
    """Retries after an error that Concord does not know, which ended in a traceback: it may be a bug, and come again,
    or a library's words for a machine that failed."""

    backoff_seconds: float = Field(default=5, ge=0)
    """Seconds to wait before the first retry in a row for one cause; doubled before each further one."""

    max_backoff_seconds: float = Field(default=300, ge=0)
    """Longest wait before a retry, in seconds."""


class StorageConfig(Config):
    """How a store that is a URL is used."""

    work_dir: PathText = Field(default=".concord", min_length=1)
    """A directory that all nodes share. It holds what is being made, and a cache of what is in the store."""

    num_transfers: int = Field(default=8, ge=1)
    """Number of files that are sent or fetched at the same time."""


def fewest_nodes(launcher: SlurmLauncher, pools: Mapping[str, PoolConfig]) -> int | None:
    """Return with how many nodes of an allocation a run goes on; None if its pools are elastic and that is not told.

    A job of several kinds of nodes needs all: Slurm ends one that loses a node, whatever --no-kill says.
    """
    if launcher.min_nodes is not None:
        return launcher.min_nodes
    groups = node_groups(launcher, pools)
    if len(groups) > 1 or not any(pool.min_ranks for pool in pools.values()):
        return sum(group.num_nodes for group in groups)
    fewest = 1  # of a pool that takes what there is
    for pool in pools.values():
        if (ranks := pool.min_ranks or pool.most_ranks) is not None:
            if (number := _nodes_for(launcher, pool, ranks)) is None:
                return None
            fewest = max(fewest, number)
    return fewest


def _nodes_for(launcher: SlurmLauncher, pool: PoolConfig, ranks: int) -> int | None:
    """Count the nodes that hold so many ranks of a pool, of its larger kinds first; None if that is not known."""
    found: list[tuple[int, int | None]] = []
    for kind in pool.kinds():
        if (on_a_node := _ranks_on_a_node(slurm_for(launcher, kind), kind)) is None:
            return None
        found.append((max(1, on_a_node), kind.num_nodes if pool.members else None))
    number = 0
    for on_a_node, there in sorted(found, key=lambda one: one[0], reverse=True):
        taken = min(-(-ranks // on_a_node), ranks if there is None else there)
        number, ranks = number + taken, max(0, ranks - taken * on_a_node)
    return number + ranks


def _ranks_on_a_node(launcher: SlurmLauncher, pool: PoolConfig) -> int | None:
    """Count the ranks of a kind that a node holds, by its GPUs and cores; None if neither is known."""
    gpus = launcher.gpus_per_node or (pool.machines.accelerators_per_node if pool.machines else 0)
    cores = launcher.cpus_per_node or (pool.machines.cpus_per_node if pool.machines else None)
    by_cores = None if cores is None or pool.oversubscribe else cores // (pool.cpus_per_rank or 1)
    if pool.device == "cpu" or not gpus:
        return by_cores
    return gpus if by_cores is None else min(gpus, by_cores)


def _gpus_asked(launcher: NodesLauncher, kind: PoolConfig) -> int:
    """Return the GPUs that a launcher asks for on a node of one kind; 0 where it names no number."""
    if isinstance(launcher, SlurmLauncher):
        return slurm_for(launcher, kind).gpus_per_node or 0
    return kubernetes_for(launcher, kind).gpus_per_worker


def _check_gpus(launcher: NodesLauncher, name: str, kind: PoolConfig) -> None:
    """Raise ValueError if a job is to have another number of GPUs of a node than its machines are said to have."""
    if kind.machines is None or kind.device == "cpu":
        return
    key, options = "gpus_per_worker", dict[str, str]()
    if isinstance(launcher, SlurmLauncher):
        key, options = "gpus_per_node", slurm_for(launcher, kind).options
    if any("gpu" in f"{option}={value}" for option, value in options.items()):
        return  # it is asked for in Slurm's words
    asked, there = _gpus_asked(launcher, kind), kind.machines.accelerators_per_node
    if asked not in (0, there):
        raise ValueError(
            f"pool {name!r}: {key} is {asked}, and accelerators_per_node of its machines is {there}; a job has the "
            "GPUs that it asks for: make the two the same"
        )


class ClusterConfig(Config):
    """Where a run takes place."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray` runs work in parallel, on this machine or a cluster; `inline` runs it in this process, item by item."""

    ray_address: str = "local"
    """`local` starts a private Ray on this machine for the duration of the run; `host:port` joins a running one."""

    allow_no_token: bool = False
    """Use a Ray on another machine even if it requires no token. Anybody who reaches such a Ray can run code on it."""

    launcher: Launcher = LocalLauncher()
    """How `concord submit` starts the run."""

    pools: dict[Name, PoolConfig] = {"default": PoolConfig()}
    """Pools of machines by name; a step of the recipe names one of them as its `pool`."""

    storage: StorageConfig = StorageConfig()
    """How a store that is a URL is used; a store that is a directory needs none of it."""

    environment: dict[Annotated[VariableName, AfterValidator(_no_secret)], str] = {}
    """Environment variables of the driver and of all that it starts, such as NCCL_SOCKET_IFNAME. Workers of a Ray that
    is joined by `ray_address` do not get them: they have those that the Ray was started with."""

    pass_environment: tuple[VariableName, ...] = ("WANDB_API_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN_PATH")
    """Names of environment variables, secrets among them, that `concord submit` passes on to the run, if set."""

    time_limit_minutes: float | None = Field(default=None, gt=0)
    """Minutes that a submitted run may take, over all its attempts; then it saves a checkpoint and ends. Left out: it
    may take any time."""

    retries: RetriesConfig = RetriesConfig()
    """How many times a submitted run is started again by itself."""

    wandb: WandbConfig | None = None
    """Where to copy the training metrics in Weights & Biases; null keeps them in metrics.jsonl alone."""

    @model_validator(mode="after")
    def _launcher_asks_for_nodes(self) -> Self:
        if isinstance(self.launcher, NodesLauncher):
            node_groups(self.launcher, self.pools)
            for name, pool in self.pools.items():
                for kind in pool.kinds():
                    _check_gpus(self.launcher, name, kind)
        return self

    @model_validator(mode="after")
    def _slurm_has_a_range_of_nodes(self) -> Self:
        launcher = self.launcher
        if not isinstance(launcher, SlurmLauncher):
            return self
        groups = node_groups(launcher, self.pools)
        most = sum(group.num_nodes for group in groups)
        if launcher.min_nodes and len(groups) > 1:
            raise ValueError(
                "launcher.min_nodes is for nodes of one kind, and the pools ask for several: such a job begins with "
                "all its nodes, and is queued again when one is lost; leave min_nodes out"
            )
        if (launcher.min_nodes or 0) > most:
            raise ValueError(f"launcher.min_nodes is {launcher.min_nodes}, more than num_nodes, {most}")
        fewest = fewest_nodes(launcher, self.pools)
        if fewest is None and most > 1:
            raise ValueError(
                "a pool has min_ranks, and nothing says how many nodes hold the ranks of each pool; set "
                "launcher.min_nodes, or launcher.gpus_per_node or cpus_per_node"
            )
        if fewest is not None and fewest > most and launcher.min_nodes is None:
            raise ValueError(
                f"the pools want at least {fewest} nodes for their min_ranks, and launcher.num_nodes is {most}; ask "
                "for more nodes, or for fewer ranks"
            )
        return self

    def pool(self, name: str) -> PoolConfig:
        """Return a pool; a kind for whose nodes the launcher asks for GPUs wants them, unless it says `cpu`."""
        pool, launcher = self.pools[name], self.launcher
        if not isinstance(launcher, NodesLauncher):
            return pool
        wanting = [kind.device == "auto" and _gpus_asked(launcher, kind) > 0 for kind in pool.kinds()]
        members = tuple(
            member.model_copy(update={"device": "gpu"}) if wants else member
            for member, wants in zip(pool.members, wanting, strict=False)
        )
        update = {"members": members} | ({"device": "gpu"} if all(wanting) else {})
        return pool.model_copy(update=update) if any(wanting) else pool

    def without_pools(self, unused: Collection[str]) -> "ClusterConfig":
        """Return the same without some pools, where these have nodes of their own, which are then not asked for."""
        launcher = self.launcher
        if not unused or not isinstance(launcher, NodesLauncher) or len(node_groups(launcher, self.pools)) == 1:
            return self
        pools = {name: pool for name, pool in self.pools.items() if name not in unused}
        key = "num_nodes" if isinstance(launcher, SlurmLauncher) else "num_workers"
        return self.model_copy(update={"pools": pools, "launcher": launcher.model_copy(update={key: None})})

    @model_validator(mode="after")
    def _slurm_warns_in_time(self) -> Self:
        if isinstance(self.launcher, SlurmLauncher):
            grace = max((pool.grace_seconds for pool in self.pools.values()), default=0)
            if self.launcher.signal_seconds <= grace:
                raise ValueError(
                    f"launcher.signal_seconds is {self.launcher.signal_seconds}, and a pool's grace_seconds {grace:g}: "
                    "Slurm would end the job before a checkpoint is saved; set signal_seconds higher"
                )
        return self
