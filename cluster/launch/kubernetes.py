"""The launcher `kubernetes`: a RayJob of the KubeRay operator, by kubectl."""

import json

from pydantic import BaseModel, ConfigDict

from cluster.host.programs import ProgramFailed, ProgramUnavailable, call_program, require_program
from cluster.launch.kube_manifest import rayjob, rayjob_name
from cluster.launch.kube_types import RayJobStatus
from cluster.launch.launcher import DriverState, DriverStatus, Submission
from cluster.launch.shared import COMMAND_SECONDS, NUM_LAST_LINES, SLOW_COMMAND_SECONDS, last_lines
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
        require_program("kubectl", hint="install it where you submit, with access to the cluster")
        try:
            _call("kubectl", "version", "--request-timeout=10s", "--output=json")
        except ProgramFailed as error:
            raise StartUpError(_no_answer(str(error))) from error
        try:
            _call("kubectl", "get", "crd", "rayjobs.ray.io", "--output=name")
        except ProgramFailed as error:
            raise ConfigError(f"this Kubernetes has no RayJob ({error}); install the KubeRay operator") from error

    def render(self, submission: Submission) -> str:
        """Return the manifest, as JSON, which is YAML too."""
        return rayjob(self._config, submission).model_dump_json(by_alias=True, exclude_none=True, indent=2)

    def submit(self, submission: Submission) -> str:
        """Apply the manifest. Its name is the submission's, so that applying it again changes nothing.

        Raises ConfigError if Kubernetes refuses the RayJob, StartUpError if it does not answer in time.
        """
        apply, manifest = ["kubectl", "apply", "--filename=-"], self.render(submission)
        try:
            call_program(apply, timeout_seconds=SLOW_COMMAND_SECONDS, stdin=manifest)
        except ProgramUnavailable as error:
            raise StartUpError(_no_answer(str(error))) from error
        except ProgramFailed as error:
            raise ConfigError(
                f"Kubernetes takes no such RayJob: {error}; mend `launcher` in the cluster file"
            ) from error
        handle = KubernetesHandle(namespace=self._config.namespace, name=rayjob_name(submission.name))
        return handle.model_dump_json()

    def status(self, handle: str) -> DriverStatus:
        """Return what KubeRay says: how far the cluster is, and the job on it."""
        try:
            status = _fetch_status(KubernetesHandle.model_validate_json(handle))
        except ProgramFailed as error:
            return DriverStatus("unknown", str(error))
        step = status.job_deployment_status
        state: DriverState = "ended" if step in ENDED else "running" if step in RUNNING else "waiting"
        detail = " ".join(filter(None, [step or "New", status.job_status, status.reason, status.message]))
        return DriverStatus(state, detail)

    def stop(self, handle: str) -> None:
        """Let Ray stop the job, which gives the driver its grace; a RayJob whose job has not begun is deleted."""
        state = self.status(handle).state
        if state == "waiting":
            self.kill(handle)
        elif state == "running":
            _stop_on_head(KubernetesHandle.model_validate_json(handle))

    def kill(self, handle: str) -> None:
        """Delete the RayJob, with its cluster and all pods."""
        job = KubernetesHandle.model_validate_json(handle)
        try:
            _call(*_kubectl(job), "delete", "rayjob", job.name, "--ignore-not-found", "--wait=false")
        except ProgramFailed as error:
            raise StartUpError(f"Kubernetes does not delete RayJob {job.name}: {error}") from error

    def last_output(self, handle: str) -> str:
        """Return the end of what the submitting pod has printed: the driver's output, as far as it came."""
        job = KubernetesHandle.model_validate_json(handle)
        try:
            return last_lines(_call(*_kubectl(job), "logs", f"job/{job.name}", f"--tail={NUM_LAST_LINES}"))
        except ProgramFailed as error:
            return str(error)


def _call(*command: str) -> str:
    """Return what kubectl prints. Raises ProgramFailed if it ends badly or not in time."""
    return call_program(command, timeout_seconds=COMMAND_SECONDS)


def _no_answer(error: str) -> str:
    return f"no Kubernetes answers kubectl ({error}); see `kubectl version`"


def _kubectl(job: KubernetesHandle) -> list[str]:
    return ["kubectl", f"--namespace={job.namespace}"]


def _fetch_status(job: KubernetesHandle) -> RayJobStatus:
    shown = json.loads(_call(*_kubectl(job), "get", "rayjob", job.name, "--output=json"))
    return RayJobStatus.model_validate(shown.get("status", {}))


def _stop_on_head(job: KubernetesHandle) -> None:
    """Have Ray stop the job, by a command in the head pod, which has the token."""
    try:
        status = _fetch_status(job)
        selector = f"ray.io/cluster={status.ray_cluster_name},ray.io/node-type=head"
        pod = _call(*_kubectl(job), "get", "pod", f"--selector={selector}", "--output=name").split("\n")[0]
        stop = ["exec", pod, "--container=ray-head", "--", "ray", "job", "stop", "--no-wait", status.job_id]
        call_program([*_kubectl(job), *stop], timeout_seconds=SLOW_COMMAND_SECONDS)
    except ProgramFailed as error:
        raise StartUpError(f"the head pod of RayJob {job.name} does not stop its job: {error}") from error
