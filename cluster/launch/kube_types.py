"""The part of KubeRay's and Kubernetes' API that a run needs, in types.

Names are those of the KubeRay API reference (ray.io/v1: RayJob, RayJobSpec, RayClusterSpec, HeadGroupSpec,
WorkerGroupSpec, AuthOptions) and of the Kubernetes API v1 (PodTemplateSpec and what is in it).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class KubeType(BaseModel):
    """One object of the API; its fields are written in camelCase, and left out where they are None."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)


class Metadata(KubeType):
    """ObjectMeta."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class EnvVar(KubeType):
    """EnvVar with a value."""

    name: str
    value: str


class SecretReference(KubeType):
    """SecretEnvSource."""

    name: str


class EnvFrom(KubeType):
    """EnvFromSource: all keys of a Secret as variables."""

    secret_ref: SecretReference


class Resources(KubeType):
    """ResourceRequirements. Ray counts what it has by the limits."""

    requests: dict[str, str]
    limits: dict[str, str]


class VolumeMount(KubeType):
    """VolumeMount."""

    name: str
    mount_path: str


class Container(KubeType):
    """Container."""

    name: str
    image: str
    env: list[EnvVar]
    env_from: list[EnvFrom] | None = None
    resources: Resources
    volume_mounts: list[VolumeMount]


class ClaimSource(KubeType):
    """PersistentVolumeClaimVolumeSource."""

    claim_name: str


class EmptyDirSource(KubeType):
    """EmptyDirVolumeSource."""

    medium: Literal["Memory"]


class Volume(KubeType):
    """Volume: a claim, or memory."""

    name: str
    persistent_volume_claim: ClaimSource | None = None
    empty_dir: EmptyDirSource | None = None


class PodSpec(KubeType):
    """PodSpec."""

    containers: list[Container]
    volumes: list[Volume]
    node_selector: dict[str, str] | None = None
    service_account_name: str | None = None
    termination_grace_period_seconds: int


class PodTemplate(KubeType):
    """PodTemplateSpec."""

    spec: PodSpec


class HeadGroup(KubeType):
    """HeadGroupSpec."""

    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(KubeType):
    """WorkerGroupSpec."""

    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    ray_start_params: dict[str, str]
    template: PodTemplate


class AuthOptions(KubeType):
    """AuthOptions (KubeRay 1.5): with `token` the operator makes a token and gives it to all pods."""

    mode: Literal["token"]


class RayClusterSpec(KubeType):
    """RayClusterSpec."""

    ray_version: str
    auth_options: AuthOptions
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class RayJobSpec(KubeType):
    """RayJobSpec."""

    entrypoint: str
    runtime_env_yaml: str
    submission_mode: Literal["K8sJobMode"]
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int
    backoff_limit: int
    active_deadline_seconds: int | None = None
    ray_cluster_spec: RayClusterSpec

    model_config = ConfigDict(
        alias_generator=lambda name: "runtimeEnvYAML" if name == "runtime_env_yaml" else to_camel(name)
    )


class RayJob(KubeType):
    """RayJob."""

    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    metadata: Metadata
    spec: RayJobSpec


class RayJobStatus(BaseModel):
    """What is read of a RayJob's status. Other fields are left alone."""

    model_config = ConfigDict(alias_generator=to_camel)

    job_id: str = ""
    ray_cluster_name: str = ""
    job_status: str = ""
    job_deployment_status: str = ""
    reason: str = ""
    message: str = ""
