"""What a launcher asks for of the nodes of one kind, where it differs from what it asks for of the others."""

from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

from configs.base import Config
from configs.secrets import is_secret

Nodes = Annotated[int, Field(ge=1, le=100_000)]
"""Number of machines."""

Cores = Annotated[int, Field(ge=1, le=100_000)]
"""Number of CPU cores of a machine."""

Gpus = Annotated[int, Field(ge=0, le=1_000)]
"""Number of GPUs of a machine."""

Gib = Annotated[float, Field(gt=0, le=1e6)]
"""Memory of a machine, in GiB."""

Word = Annotated[str, Field(pattern=r"^[^\s\"'\\#]+$")]
"""Text that is written to a line of a batch script without quotes."""

Line = Annotated[str, Field(pattern=r"^[^\r\n\"\\]*$")]
"""Text that is written to a line of a batch script between double quotes."""

Options = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], Line]
"""Options of sbatch by their long names without dashes."""


class SlurmNodesConfig(Config):
    """What a Slurm job asks for of one kind of nodes; what is left out is as in the launcher."""

    partition: Word | None = None
    """Partition that has these nodes."""

    constraint: Line | None = Field(default=None, min_length=1)
    """Features that these nodes have (`--constraint`)."""

    cpus_per_node: Cores | None = None
    """CPU cores to ask for on each of these nodes."""

    gpus_per_node: Gpus | None = None
    """GPUs to ask for on each of these nodes; 0 for none, where the launcher asks for some."""

    memory_gib_per_node: Gib | None = None
    """Memory to ask for on each of these nodes, in GiB."""

    options: Options = {}
    """Further options of sbatch for these nodes, such as `gres: "gpu:h100:8"`, merged over those of the launcher."""


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


class KubernetesNodesConfig(Config):
    """What a RayJob asks for of one kind of worker pods; what is left out is as in the launcher."""

    cpus_per_worker: Cores | None = None
    """CPU cores of each of these worker pods."""

    memory_gib_per_worker: Gib | None = None
    """Memory of each of these worker pods, in GiB."""

    gpus_per_worker: Gpus | None = None
    """GPUs of each of these worker pods (`nvidia.com/gpu`)."""

    node_selector: dict[str, str] = {}
    """Labels that nodes must have to run these worker pods, merged over those of the launcher."""

    pod: PodConfig = PodConfig()
    """Your own settings of these worker pods, merged over those of the launcher's `pod`."""
