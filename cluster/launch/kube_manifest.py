"""The RayJob that runs a submission."""

import hashlib
import json
import math
import re
from importlib.metadata import version

from cluster.launch import kube_types as kube
from cluster.launch.entry import entry_command
from cluster.launch.launcher import Submission
from cluster.launch.shared import grace_before_kill_seconds, public_environment
from configs.base import ConfigError
from configs.launchers import KubernetesLauncher

MAX_NAME = 47
"""Most characters in the name of a RayJob: KubeRay makes other names from it, of at most 63 characters."""

GPU = "nvidia.com/gpu"


def rayjob_name(name: str) -> str:
    """Return a name that Kubernetes takes, the same for the same submission and, in practice, for no other."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if plain == name and len(name) <= MAX_NAME and name[0].isalpha():
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"c-{plain}"[: MAX_NAME - 9].strip("-") + f"-{digest}"


def rayjob(config: KubernetesLauncher, submission: Submission) -> kube.RayJob:
    """Build the RayJob. Secrets come from the Secret that the cluster file names, never from the manifest."""
    _check_mounted(config, submission)
    grace = grace_before_kill_seconds(submission)
    limit = submission.cluster.time_limit_minutes
    return kube.RayJob(
        metadata=kube.Metadata(
            name=rayjob_name(submission.name),
            namespace=config.namespace,
            labels={"app.kubernetes.io/name": "concord"},
            annotations={"concord/run": submission.run},
        ),
        spec=kube.RayJobSpec(
            entrypoint=entry_command(submission),
            runtime_env_yaml=json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(grace)}}),
            submission_mode="K8sJobMode",
            shutdown_after_job_finishes=True,
            ttl_seconds_after_finished=config.keep_seconds,
            backoff_limit=config.backoff_limit,
            # The driver keeps the limit itself and saves; this ends what never began.
            active_deadline_seconds=None if limit is None else math.ceil(limit * 60) + grace + config.keep_seconds,
            ray_cluster_spec=kube.RayClusterSpec(
                ray_version=version("ray"),
                auth_options=kube.AuthOptions(mode="token"),
                head_group_spec=_head(config, submission),
                worker_group_specs=[_workers(config, submission)] if config.num_workers else [],
            ),
        ),
    )


def _check_mounted(config: KubernetesLauncher, submission: Submission) -> None:
    mounts = [volume.mount_path for volume in config.volumes]
    if not any(submission.log.absolute().is_relative_to(mount) for mount in mounts):
        raise ConfigError(
            f"{submission.log.absolute().parent}, where the run is kept, is in no volume of the pods, which are "
            f"mounted at {', '.join(mounts)}; give a store there (of a URL: storage.work_dir), or mount its volume at "
            "its path"
        )


def _head(config: KubernetesLauncher, submission: Submission) -> kube.HeadGroup:
    size = {"cpu": str(config.head_cpus), "memory": _memory(config.head_memory_gib)}
    # Without workers the head does all the work; beside them it does none, so that a rank never ends the driver.
    params = {"num-cpus": "0"} if config.num_workers else {}
    return kube.HeadGroup(ray_start_params=params, template=_pod(config, submission, "ray-head", size, selector={}))


def _workers(config: KubernetesLauncher, submission: Submission) -> kube.WorkerGroup:
    size = {"cpu": str(config.cpus_per_worker), "memory": _memory(config.memory_gib_per_worker)}
    if config.gpus_per_worker:
        size[GPU] = str(config.gpus_per_worker)
    return kube.WorkerGroup(
        group_name="workers",
        replicas=config.num_workers,
        min_replicas=config.num_workers,
        max_replicas=config.num_workers,
        ray_start_params={},
        template=_pod(config, submission, "ray-worker", size, selector=config.node_selector),
    )


def _pod(
    config: KubernetesLauncher, submission: Submission, name: str, size: dict[str, str], *, selector: dict[str, str]
) -> kube.PodTemplate:
    variables = public_environment(submission) | {"PYTHONPATH": config.code_path}
    volumes = {f"volume-{index}": volume for index, volume in enumerate(config.volumes)}
    container = kube.Container(
        name=name,
        image=config.image,
        env=[kube.EnvVar(name=key, value=value) for key, value in sorted(variables.items())],
        env_from=[kube.EnvFrom(secret_ref=kube.SecretReference(name=config.secret))] if config.secret else None,
        resources=kube.Resources(requests=size, limits=size),
        volume_mounts=[
            *(kube.VolumeMount(name=key, mount_path=volume.mount_path) for key, volume in volumes.items()),
            kube.VolumeMount(name="shared-memory", mount_path="/dev/shm"),
        ],
    )
    claims = [
        kube.Volume(name=key, persistent_volume_claim=kube.ClaimSource(claim_name=volume.claim))
        for key, volume in volumes.items()
    ]
    # A container's own /dev/shm is 64 MiB: too little for Ray's objects and for NCCL.
    memory = kube.Volume(name="shared-memory", empty_dir=kube.EmptyDirSource(medium="Memory"))
    return kube.PodTemplate(
        spec=kube.PodSpec(
            containers=[container],
            volumes=[*claims, memory],
            node_selector=selector or None,
            service_account_name=config.service_account,
            termination_grace_period_seconds=grace_before_kill_seconds(submission),
        )
    )


def _memory(gib: float) -> str:
    return f"{math.ceil(gib * 1024)}Mi"
