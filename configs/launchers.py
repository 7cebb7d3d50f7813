"""The settings of a cluster file about how `concord submit` starts a run: one class for each launcher."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from configs.base import Config
from configs.pools import Cores, Gib, Gpus, Nodes

Word = Annotated[str, Field(pattern=r"^[^\s\"'\\#]+$")]
"""Text that is written to a line of a batch script without quotes."""

Line = Annotated[str, Field(pattern=r"^[^\r\n\"\\]*$")]
"""Text that is written to a line of a batch script between double quotes."""


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

    num_nodes: Nodes = 1
    """Number of nodes of the allocation."""

    cpus_per_node: Cores | None = None
    """CPU cores to ask for on each node. Left out: whole nodes (`--exclusive`)."""

    gpus_per_node: Annotated[Gpus, Field(ge=1)] | None = None
    """GPUs to ask for on each node (`--gpus-per-node`)."""

    memory_gib_per_node: Gib | None = None
    """Memory to ask for on each node, in GiB. Left out: the partition's default."""

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

    options: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], Line] = {}
    """Further options of sbatch, by their long names without dashes; one that takes no value has an empty value."""

    start_timeout_seconds: float = Field(default=300, gt=0)
    """Seconds that all nodes may take to join the Ray cluster."""


class VolumeConfig(Config):
    """A volume of the Kubernetes pods."""

    claim: str = Field(min_length=1)
    """Name of the PersistentVolumeClaim; all pods mount it, so it must be ReadWriteMany."""

    mount_path: str = Field(pattern=r"^/")
    """Directory of the pods that it is mounted at."""


class PodConfig(Config):
    """A part of a Kubernetes PodTemplateSpec, merged over that of each pod. Its fields are those of Kubernetes."""

    metadata: dict[str, JsonValue] = {}
    """Labels and annotations of the pods."""

    spec: dict[str, JsonValue] = {}
    """The PodSpec: tolerations, imagePullSecrets, priorityClassName, hostNetwork and so on. An item of `containers`
    without a name is Ray's container in every pod; `ray-head` and `ray-worker` are that of one kind of pods."""


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

    num_workers: Annotated[int, Field(ge=0, le=100_000)] = 1
    """Number of worker pods."""

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
    """Your own settings of the pods, merged over what Concord writes. Mappings merge; items of lists merge by name, and
    new ones are added; a null takes away."""

    rayjob: dict[str, JsonValue] = {}
    """Your own settings of the whole RayJob, merged last in the same way: labels of a queue, settings of one group."""

    backoff_limit: int = Field(default=3, ge=0)
    """How many times KubeRay makes a new cluster for the run after its job has failed."""

    keep_seconds: int = Field(default=600, ge=0)
    """Seconds that the pods of a finished RayJob are kept."""


Launcher = Annotated[LocalLauncher | RayLauncher | SlurmLauncher | KubernetesLauncher, Field(discriminator="kind")]
