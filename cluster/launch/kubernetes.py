"""The launcher `kubernetes`: a RayJob of the KubeRay operator, by kubectl."""

import json

from pydantic import BaseModel, ConfigDict

from cluster.launch.kube_manifest import rayjob, rayjob_name
from cluster.launch.kube_types import RayJobStatus
from cluster.launch.launcher import State, Submission, Whereabouts
from cluster.launch.shared import CommandFailed, call, last_lines, require
from configs.base import ConfigError, StartUpError
from configs.launchers import KubernetesLauncher

ENDED = frozenset({"Complete", "Failed"})
RUNNING = frozenset({"Running"})
"""KubeRay's JobDeploymentStatus; in the others a RayJob waits."""


class KubernetesHandle(BaseModel):
    """Which RayJob it is."""

    model_config = ConfigDict(frozen=True)

    namespace: str
    name: str


class Kubernetes:
    """Starts drivers on Ray clusters that KubeRay makes for them."""

    def __init__(self, config: KubernetesLauncher) -> None:
        self._config = config

    def check(self) -> None:
        """Raise ConfigError if there is no kubectl or no KubeRay, StartUpError if no API server answers."""
        require("kubectl", hint="install it where you submit, with access to the cluster")
        try:
            call(["kubectl", "version", "--request-timeout=10s", "--output=json"])
        except CommandFailed as error:
            raise StartUpError(f"no Kubernetes answers kubectl ({error}); see `kubectl version`") from error
        try:
            call(["kubectl", "get", "crd", "rayjobs.ray.io", "--output=name"])
        except CommandFailed as error:
            raise ConfigError(f"this Kubernetes has no RayJob ({error}); install the KubeRay operator") from error

    def render(self, submission: Submission) -> str:
        """The manifest, as JSON, which is YAML too."""
        return rayjob(self._config, submission).model_dump_json(by_alias=True, exclude_none=True, indent=2)

    def submit(self, submission: Submission) -> str:
        """Apply the manifest. Its name is the submission's, so that applying it again changes nothing."""
        try:
            call(["kubectl", "apply", "--filename=-"], text=self.render(submission))
        except CommandFailed as error:
            raise ConfigError(
                f"Kubernetes takes no such RayJob: {error}; mend `launcher` in the cluster file"
            ) from error
        handle = KubernetesHandle(namespace=self._config.namespace, name=rayjob_name(submission.name))
        return handle.model_dump_json()

    def look(self, handle: str) -> Whereabouts:
        """KubeRay's word: how far the cluster is, and the job on it."""
        try:
            status = _status(KubernetesHandle.model_validate_json(handle))
        except CommandFailed as error:
            return Whereabouts("unknown", str(error))
        step = status.job_deployment_status
        state: State = "ended" if step in ENDED else "running" if step in RUNNING else "waiting"
        said = " ".join(filter(None, [step or "New", status.job_status, status.reason, status.message]))
        return Whereabouts(state, said)

    def stop(self, handle: str) -> None:
        """Let Ray stop the job, which gives the driver its grace; a RayJob whose job has not begun is deleted."""
        job = KubernetesHandle.model_validate_json(handle)
        whereabouts = self.look(handle)
        if whereabouts.state == "waiting":
            self.kill(handle)
        elif whereabouts.state == "running":
            status = _status(job)
            _on_head(job, status, "ray", "job", "stop", "--no-wait", status.job_id)

    def kill(self, handle: str) -> None:
        """Delete the RayJob, with its cluster and all pods."""
        job = KubernetesHandle.model_validate_json(handle)
        try:
            call([*_kubectl(job), "delete", "rayjob", job.name, "--ignore-not-found", "--wait=false"])
        except CommandFailed as error:
            raise StartUpError(f"Kubernetes does not delete RayJob {job.name}: {error}") from error

    def last_words(self, handle: str) -> str:
        """The end of what the submitting pod has printed: the driver's output, as far as it came."""
        job = KubernetesHandle.model_validate_json(handle)
        try:
            return last_lines(call([*_kubectl(job), "logs", f"job/{job.name}"]))
        except CommandFailed as error:
            return str(error)


def _kubectl(job: KubernetesHandle) -> list[str]:
    return ["kubectl", f"--namespace={job.namespace}"]


def _status(job: KubernetesHandle) -> RayJobStatus:
    shown = json.loads(call([*_kubectl(job), "get", "rayjob", job.name, "--output=json"]))
    return RayJobStatus.model_validate(shown.get("status", {}))


def _on_head(job: KubernetesHandle, status: RayJobStatus, *command: str) -> None:
    """Run a command in the head pod, which has the token."""
    selector = f"ray.io/cluster={status.ray_cluster_name},ray.io/node-type=head"
    try:
        pod = call([*_kubectl(job), "get", "pod", f"--selector={selector}", "--output=name"]).split("\n")[0]
        call([*_kubectl(job), "exec", pod, "--container=ray-head", "--", *command])
    except CommandFailed as error:
        raise StartUpError(f"the head pod of RayJob {job.name} does not stop its job: {error}") from error
