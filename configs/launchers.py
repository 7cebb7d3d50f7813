"""The settings of a cluster file about how `concord submit` starts a run: one class for each launcher."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from configs.base import Config
from configs.pools import Cores, Gib, Gpus, Nodes
from configs.secrets import is_secret

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


KEY_OF_ITEMS = {
    "containers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
    "volumeMounts": "mountPath",
    "volumes": "name",
    "workerGroupSpecs": "groupName",
}
"""Lists of Kubernetes' and KubeRay's objects whose items have a key of their own, and its name: the patchMergeKey of
the API."""

_LISTS = {*KEY_OF_ITEMS, "args", "command", "envFrom", "tolerations"}
_FREE_KEYS = {"annotations", "labels", "limits", "matchLabels", "nodeSelector", "requests"}
"""Mappings whose keys are anybody's: a label may be called `env`."""


def check_overlay(value: dict[str, JsonValue], nameless: str = "") -> dict[str, JsonValue]:
    """Return a part of a Kubernetes object. Raises ValueError if it cannot be one, as far as can be told without it.

    Items of `containers` at the place `nameless` need no name.
    """
    _check_object(value, "", nameless)
    return value


def _check_object(value: JsonValue, place: str, nameless: str) -> None:
    if isinstance(value, list):
        for item in value:
            _check_object(item, place, nameless)
    elif isinstance(value, dict):
        if isinstance(name := value.get("name"), str) and value.get("value") and is_secret(name):
            raise ValueError(
                f"{place} holds {name}, a secret, which no file may: put it into the Secret that `secret` names"
            )
        for name, item in value.items():
            here = f"{place}.{name}" if place else name
            if name in _LISTS:
                _check_list(item, here, None if here == nameless else KEY_OF_ITEMS.get(name))
            if name not in _FREE_KEYS:
                _check_object(item, here, nameless)


def _check_list(value: JsonValue, place: str, key: str | None) -> None:
    if not isinstance(value, list):
        raise ValueError(f"{place} must be a list, as it is in Kubernetes")
    if place.rpartition(".")[2] in ("args", "command"):
        return
    for item in value:
        if not isinstance(item, dict) or (key is not None and not isinstance(item.get(key), str | int)):
            what = f" with a {key!r}" if key else ""
            raise ValueError(f"each item of {place} must be a mapping{what}, as it is in Kubernetes")


class PodConfig(Config):
    """A part of a Kubernetes PodTemplateSpec, merged over that of each pod. Its fields are those of Kubernetes."""

    metadata: Annotated[dict[str, JsonValue], AfterValidator(check_overlay)] = {}
    """Labels and annotations of the pods."""

    spec: Annotated[dict[str, JsonValue], AfterValidator(lambda spec: check_overlay(spec, "containers"))] = {}
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
    """Your own settings of the pods, merged over what Concord writes: mappings by key, items of lists by name."""

    rayjob: Annotated[dict[str, JsonValue], AfterValidator(check_overlay)] = {}
    """Your own settings of the whole RayJob, merged last in the same way: labels of a queue, settings of one group."""

    backoff_limit: int = Field(default=3, ge=0)
    """How many times KubeRay makes a new cluster for the run after its job has failed."""

    keep_seconds: int = Field(default=600, ge=0)
    """Seconds that the pods of a finished RayJob are kept."""


Launcher = Annotated[LocalLauncher | RayLauncher | SlurmLauncher | KubernetesLauncher, Field(discriminator="kind")]
