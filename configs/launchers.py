"""The settings of a cluster file about how `concord submit` starts a run: one class for each launcher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from configs.base import Config
from configs.nodes import (
    Cores,
    Gib,
    Gpus,
    KubernetesNodesConfig,
    Nodes,
    Options,
    PodConfig,
    SlurmNodesConfig,
    Word,
    check_overlay,
)
from configs.pools import PoolConfig


class LocalLauncher(Config):
    """Runs the driver as a process of this machine, which goes on when the terminal is closed."""

    kind: Literal["local"] = "local"
    """This machine."""


class RayLauncher(Config):
    """Runs the driver as a job on the head node of a running Ray cluster, through Ray's Jobs API."""

    kind: Literal["ray"]
    """An existing Ray cluster. The cluster file's `ray_address` is not used: the job is inside the cluster."""

    dashboard_address: str = Field(default="http://127.0.0.1:8265", pattern=r"^https?://")
    """URL of the cluster's dashboard, which serves the Jobs API."""

    max_code_mib: int = Field(default=50, ge=1)
    """Largest amount of code, in MiB, that is sent to the cluster; more is refused."""


class SlurmLauncher(Config):
    """Runs the driver in an sbatch job that starts a Ray cluster on its allocation and ends it again."""

    kind: Literal["slurm"]
    """Slurm."""

    num_nodes: Nodes | None = None
    """Number of nodes of the allocation. Left out: as many as the pools ask for by their `num_nodes`, else 1."""

    min_nodes: Nodes | None = None
    """Fewest nodes with which a run begins, and goes on when others are lost (`--nodes=MIN-MAX --no-kill`). Left out:
    for elastic pools as many as hold their `min_ranks`, if the GPUs of a node are known; else all nodes."""

    cpus_per_node: Cores | None = None
    """CPU cores to ask for on each node. Left out: whole nodes (`--exclusive`), with all of their GPUs."""

    gpus_per_node: Annotated[Gpus, Field(ge=1)] | None = None
    """GPUs to ask for on each node (`--gpus-per-node`)."""

    memory_gib_per_node: Gib | None = None
    """Memory to ask for on each node, in GiB. Left out: all of whole nodes (`--mem=0`), else the default of
    the partition."""

    partition: Word | None = None
    """Partition to run in. Left out: Slurm's default."""

    account: Word | None = None
    """Account that the job is charged to. Left out: Slurm's default."""

    qos: Word | None = None
    """Quality of service (`--qos`). Left out: Slurm's default."""

    time_limit_minutes: int | None = Field(default=None, ge=1)
    """Time limit of the allocation, in minutes; a run that is not done by then saves a checkpoint and is queued again.
    Left out: the partition's limit."""

    signal_seconds: int = Field(default=180, ge=10)
    """Seconds before the time limit or a pre-emption at which Slurm warns the run. It saves a checkpoint in this time,
    so it must be more than the pools' grace_seconds."""

    requeue: bool = True
    """Queue the job again when it was pre-empted, ran out of time, or a node failed."""

    setup: tuple[str, ...] = ()
    """Shell lines that run first on each node, such as `module load cuda` or `. .venv/bin/activate`."""

    options: Options = {}
    """Further options of sbatch, by their long names without dashes; one that takes no value has an empty value."""

    start_timeout_seconds: float = Field(default=300, gt=0)
    """Seconds that all nodes may take to join the Ray cluster."""


class VolumeConfig(Config):
    """A volume of the Kubernetes pods."""

    claim: str = Field(min_length=1)
    """Name of the PersistentVolumeClaim; all pods mount it, so it must be ReadWriteMany."""

    mount_path: str = Field(pattern=r"^/")
    """Directory of the pods that it is mounted at."""


class KubernetesLauncher(Config):
    """Runs the driver in a RayJob (ray.io/v1) of the KubeRay operator, which makes a Ray cluster for the run."""

    kind: Literal["kubernetes"]
    """Kubernetes with the KubeRay operator; `kubectl` must be able to reach it."""

    image: str = Field(min_length=1)
    """Container image with this environment and Concord's code at `code_path`."""

    code_path: str = Field(default="/concord", pattern=r"^/")
    """Directory of the image that holds Concord's packages."""

    namespace: str = Field(default="default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    """Namespace of the RayJob."""

    num_workers: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Number of worker pods. Left out: as many as the pools ask for by their `num_nodes`, else 1."""

    cpus_per_worker: Cores = 4
    """CPU cores of a worker pod."""

    memory_gib_per_worker: Gib = 16
    """Memory of a worker pod, in GiB."""

    gpus_per_worker: Gpus = 0
    """GPUs of a worker pod (`nvidia.com/gpu`)."""

    head_cpus: int = Field(default=2, ge=1)
    """CPU cores of the head pod, which does no training."""

    head_memory_gib: Gib = 8
    """Memory of the head pod, in GiB."""

    node_selector: dict[str, str] = {}
    """Labels that nodes must have to run the worker pods."""

    volumes: tuple[VolumeConfig, ...] = Field(min_length=1)
    """Volumes that all pods mount; one of them holds the store."""

    secret: str | None = None
    """Name of a Secret; its keys, such as WANDB_API_KEY and HF_TOKEN, become environment variables of the pods."""

    service_account: str | None = None
    """Name of the pods' ServiceAccount. Left out: the namespace's default."""

    pod: PodConfig = PodConfig()
    """Your own settings of the pods, merged over what Concord writes: mappings by key, items of lists by name."""

    rayjob: Annotated[dict[str, JsonValue], AfterValidator(check_overlay)] = {}
    """Your own settings of the whole RayJob, merged last in the same way: labels of a queue, settings of one group."""

    backoff_limit: int = Field(default=3, ge=0)
    """How many times KubeRay makes a new cluster for the run after its job has failed."""

    keep_seconds: int = Field(default=600, ge=0)
    """Seconds that the pods of a finished RayJob are kept."""


NodesLauncher = SlurmLauncher | KubernetesLauncher
"""The launchers that ask for nodes."""

Launcher = Annotated[LocalLauncher | RayLauncher | SlurmLauncher | KubernetesLauncher, Field(discriminator="kind")]


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind that a launcher asks for: a component of a Slurm job, or a worker group of a RayJob."""

    name: str
    """The pool that they are for, the first of several, and the number of its member, from 1: `default-1`."""

    kind: PoolConfig
    num_nodes: int

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that Ray is started with there: those of the kind that Ray does not give by itself."""
        return {key: value for key, value in self.kind.labels.items() if not key.startswith("ray.io/")}


def slurm_for(launcher: SlurmLauncher, kind: PoolConfig) -> SlurmLauncher:
    """Return what a job asks for of the nodes of one kind: `slurm` of the kind over the launcher's own."""
    own = kind.slurm or SlurmNodesConfig()
    constraint = {"constraint": own.constraint} if own.constraint else {}
    given = own.model_dump(exclude_none=True, exclude={"constraint", "options"})
    return launcher.model_copy(update={**given, "options": {**launcher.options, **constraint, **own.options}})


def kubernetes_for(launcher: KubernetesLauncher, kind: PoolConfig) -> KubernetesLauncher:
    """Return what a RayJob asks for of the worker pods of one kind, but for `pod`, which the manifest merges."""
    own = kind.kubernetes or KubernetesNodesConfig()
    given = own.model_dump(exclude_none=True, exclude={"node_selector", "pod"})
    return launcher.model_copy(update={**given, "node_selector": {**launcher.node_selector, **own.node_selector}})


def node_groups(launcher: NodesLauncher, pools: Mapping[str, PoolConfig]) -> tuple[NodeGroup, ...]:
    """Return the kinds of nodes that a launcher asks for: one, unless the pools tell several apart and say how many.

    They are told apart by what the launcher asks for, by `accelerator` and by labels; kinds that need the same nodes
    share them, and a pool to which all of that is one takes what others have. Raises ValueError if the pools do not
    say how many nodes of a kind there are, or what to ask for.
    """
    groups = _kinds_of_nodes(launcher, pools)
    asks = any(_own(launcher, group.kind) for group in groups)
    if len(groups) > 1 and (asks or all(group.num_nodes for group in groups)):
        _check_told_apart(launcher, groups)
        return tuple(groups)
    said = num_asked(launcher)
    number = max((group.num_nodes for group in groups), default=0) or 1 if said is None else said
    one = groups[0] if len(groups) == 1 else NodeGroup(next(iter(pools), "default"), PoolConfig(), 0)
    return (replace(one, num_nodes=number),)


def num_asked(launcher: NodesLauncher) -> int | None:
    """Return how many nodes a launcher asks for by itself; None if that is left to the pools."""
    return launcher.num_nodes if isinstance(launcher, SlurmLauncher) else launcher.num_workers


def _kinds_of_nodes(launcher: NodesLauncher, pools: Mapping[str, PoolConfig]) -> list[NodeGroup]:
    """List the kinds that need nodes of their own, in the order of the pools; 0 nodes where nothing says how many."""
    groups: list[NodeGroup] = []
    anywhere: list[NodeGroup] = []
    place = 0
    for name, pool in pools.items():
        for number, kind in enumerate(pool.kinds(), 1):
            group = NodeGroup(f"{name}-{number}", kind, kind.num_nodes or 0)
            same = next((i for i, one in enumerate(groups) if _needs(launcher, one) == _needs(launcher, group)), None)
            if not pool.members and not any(_needs(launcher, group)):
                place = place if anywhere else len(groups)
                anywhere.append(group)
            elif same is None:
                groups.append(group)
            else:
                groups[same] = replace(groups[same], num_nodes=max(groups[same].num_nodes, group.num_nodes))
    if not anywhere:
        return groups
    most = max(anywhere, key=lambda group: group.num_nodes)
    there = [i for i, one in enumerate(groups) if _own(launcher, one.kind) is None]
    missing = most.num_nodes - sum(groups[i].num_nodes for i in there)
    if there and missing > 0:
        groups[there[0]] = replace(groups[there[0]], num_nodes=groups[there[0]].num_nodes + missing)
    elif not there and (most.num_nodes or not groups):
        groups.insert(place, most)
    return groups


def _own(launcher: NodesLauncher, kind: PoolConfig) -> SlurmNodesConfig | KubernetesNodesConfig | None:
    """Return what a kind says of what the launcher asks for of its nodes."""
    return kind.slurm if isinstance(launcher, SlurmLauncher) else kind.kubernetes


def _needs(launcher: NodesLauncher, group: NodeGroup) -> tuple[object, ...]:
    return _own(launcher, group.kind), group.kind.accelerator, group.kind.labels


def _check_told_apart(launcher: NodesLauncher, groups: Sequence[NodeGroup]) -> None:
    """Raise ValueError if it is not known how many nodes of a kind to ask for, or which."""
    for group in groups:
        pool, _, number = group.name.rpartition("-")
        if not group.num_nodes:
            raise ValueError(f"pools.{pool}: nothing says how many nodes its member {number} has; set num_nodes")
    is_slurm = isinstance(launcher, SlurmLauncher)
    for one, other in combinations((group.kind for group in groups), 2):
        kinds = one.accelerator, other.accelerator
        if None not in kinds and kinds[0] != kinds[1] and _own(launcher, one) == _own(launcher, other):
            what = "partition, constraint or options" if is_slurm else "node_selector"
            raise ValueError(
                f"the launcher would ask for the same nodes for {kinds[0]} and for {kinds[1]}; say under "
                f"`{launcher.kind}` of their pool or member what tells them apart: {what}"
            )
    said, total = num_asked(launcher), sum(group.num_nodes for group in groups)
    if said is not None and said != total:
        name = "num_nodes" if is_slurm else "num_workers"
        raise ValueError(f"launcher.{name} is {said}, and the pools ask for {total} nodes by num_nodes; leave it out")
