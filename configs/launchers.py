"""What a cluster file may say of how `concord submit` starts a run: one class a launcher."""

from typing import Annotated, Literal

from pydantic import Field

from configs.base import Config
from configs.pools import Cores, Gib, Gpus, Nodes

Word = Annotated[str, Field(pattern=r"^[^\s\"'\\#]+$")]
"""What stands on a line of a batch script as it is."""

Line = Annotated[str, Field(pattern=r"^[^\r\n\"\\]*$")]
"""What stands between double quotes on a line of a batch script."""


class LocalLauncher(Config):
    """A process of this machine that outlives the terminal."""

    kind: Literal["local"] = "local"
    """This machine."""


class RayLauncher(Config):
    """A job on a Ray cluster that runs, through its Jobs API; the driver runs on the head node."""

    kind: Literal["ray"]
    """An existing Ray cluster. The cluster file's `ray_address` is not used: the job is inside the cluster."""

    dashboard_address: str = Field(default="http://127.0.0.1:8265", pattern=r"^https?://")
    """Where the cluster's dashboard answers."""

    max_code_mib: int = Field(default=50, ge=1)
    """Refuse to send more code than this."""


class SlurmLauncher(Config):
    """An sbatch job that starts a Ray over its allocation and ends it again."""

    kind: Literal["slurm"]
    """Slurm."""

    num_nodes: Nodes = 1
    """Nodes of the allocation."""

    cpus_per_node: Cores | None = None
    """CPU cores to ask for on each node. Left out: whole nodes (`--exclusive`)."""

    gpus_per_node: Annotated[Gpus, Field(ge=1)] | None = None
    """GPUs to ask for on each node (`--gpus-per-node`)."""

    memory_gib_per_node: Gib | None = None
    """Memory to ask for on each node. Left out: the partition's default."""

    partition: Word | None = None
    """Partition."""

    account: Word | None = None
    """Account that pays."""

    qos: Word | None = None
    """Quality of service."""

    time_limit_minutes: int | None = Field(default=None, ge=1)
    """Time limit of the allocation; a run that is not done saves a checkpoint and is queued again. Left out: the
    partition's."""

    signal_seconds: int = Field(default=180, ge=10)
    """Slurm warns so many seconds before the time limit or a pre-emption: time to save a checkpoint, so more than the
    pools' grace_seconds."""

    requeue: bool = True
    """Queue the job again when it was pre-empted, ran out of time, or a node failed."""

    setup: tuple[str, ...] = ()
    """Shell lines that run first on each node, such as `module load cuda` or `. .venv/bin/activate`."""

    options: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], Line] = {}
    """Further options of sbatch, by long name without dashes; an empty value for those that take none."""

    start_timeout_seconds: float = Field(default=300, gt=0)
    """How long all nodes may take to join the Ray."""


class VolumeConfig(Config):
    """A volume of the Kubernetes pods."""

    claim: str = Field(min_length=1)
    """Name of the PersistentVolumeClaim; all pods mount it, so it must be ReadWriteMany."""

    mount_path: str = Field(pattern=r"^/")
    """Where it is mounted."""


class KubernetesLauncher(Config):
    """A RayJob (ray.io/v1) of the KubeRay operator, which makes a Ray cluster for the run."""

    kind: Literal["kubernetes"]
    """Kubernetes with the KubeRay operator; `kubectl` must be able to reach it."""

    image: str = Field(min_length=1)
    """Container image with this environment and Concord's code at `code_path`."""

    code_path: str = Field(default="/concord", pattern=r"^/")
    """Where the image has Concord's packages."""

    namespace: str = Field(default="default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    """Namespace of the RayJob."""

    num_workers: Annotated[int, Field(ge=0, le=100_000)] = 1
    """Worker pods."""

    cpus_per_worker: Cores = 4
    """CPU cores of a worker pod."""

    memory_gib_per_worker: Gib = 16
    """Memory of a worker pod."""

    gpus_per_worker: Gpus = 0
    """GPUs of a worker pod (`nvidia.com/gpu`)."""

    head_cpus: int = Field(default=2, ge=1)
    """CPU cores of the head pod, which does no training."""

    head_memory_gib: Gib = 8
    """Memory of the head pod."""

    node_selector: dict[str, str] = {}
    """Labels of the nodes for the worker pods."""

    volumes: tuple[VolumeConfig, ...] = Field(min_length=1)
    """Volumes of all pods; one of them holds the store."""

    secret: str | None = None
    """A Secret whose keys become environment variables of the pods: WANDB_API_KEY, HF_TOKEN."""

    service_account: str | None = None
    """ServiceAccount of the pods."""

    backoff_limit: int = Field(default=3, ge=0)
    """How often KubeRay makes a new cluster for the run when its job has failed."""

    keep_seconds: int = Field(default=600, ge=0)
    """How long the finished RayJob's pods are kept."""


Launcher = Annotated[LocalLauncher | RayLauncher | SlurmLauncher | KubernetesLauncher, Field(discriminator="kind")]
