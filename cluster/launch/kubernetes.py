"""The launcher `kubernetes`: a RayJob of the KubeRay operator, by kubectl."""

import json
from collections import defaultdict

from pydantic import BaseModel, ConfigDict

from cluster.host.programs import ProgramFailed, ProgramUnavailable, call_program, require_program
from cluster.launch.kube_manifest import HEAD, rayjob, rayjob_name
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
        """Raise ConfigError if there is no kubectl or no KubeRay, StartUpError if no API server answers.

        It asks for nothing that a user of one namespace may not read: every user may list the kinds of objects.
        """
        require_program("kubectl", hint="install it where you submit, with access to the cluster")
        try:
            _call("kubectl", "version", "--request-timeout=10s", "--output=json")
        except ProgramFailed as error:
            raise StartUpError(_no_answer(str(error))) from error
        if not has_rayjobs():
            raise ConfigError("this Kubernetes has no RayJob (rayjobs.ray.io); install the KubeRay operator")

    def render(self, submission: Submission) -> str:
        """Return the manifest, in YAML."""
        return rayjob(self._config, submission)

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
        step = status["jobDeploymentStatus"]
        state: DriverState = "ended" if step in ENDED else "running" if step in RUNNING else "waiting"
        detail = " ".join(filter(None, [step or "New", status["jobStatus"], status["reason"], status["message"]]))
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


def has_rayjobs() -> bool:
    """Return whether the API server knows RayJobs, which the KubeRay operator brings.

    Raises StartUpError if it does not answer.
    """
    try:
        return "rayjobs.ray.io" in _call("kubectl", "api-resources", "--api-group=ray.io", "--output=name").split()
    except ProgramFailed as error:
        raise StartUpError(_no_answer(str(error))) from error


def _call(*command: str) -> str:
    """Return what kubectl prints. Raises ProgramFailed if it ends badly or not in time."""
    return call_program(command, timeout_seconds=COMMAND_SECONDS)


def _no_answer(error: str) -> str:
    return f"no Kubernetes answers kubectl ({error}); see `kubectl version`"


def _kubectl(job: KubernetesHandle) -> list[str]:
    return ["kubectl", f"--namespace={job.namespace}"]


def _fetch_status(job: KubernetesHandle) -> dict[str, str]:
    """Return what a RayJob's status says: fields of KubeRay's RayJobStatus, an empty text for one it has not."""
    shown = json.loads(_call(*_kubectl(job), "get", "rayjob", job.name, "--output=json"))
    return defaultdict(str, {key: value for key, value in shown.get("status", {}).items() if isinstance(value, str)})


def _stop_on_head(job: KubernetesHandle) -> None:
    """Have Ray stop the job, by a command in the head pod, which has the token."""
    try:
        status = _fetch_status(job)
        selector = f"ray.io/cluster={status['rayClusterName']},ray.io/node-type=head"
        pod = _call(*_kubectl(job), "get", "pod", f"--selector={selector}", "--output=name").split("\n")[0]
        stop = ["exec", pod, f"--container={HEAD}", "--", "ray", "job", "stop", "--no-wait", status["jobId"]]
        call_program([*_kubectl(job), *stop], timeout_seconds=SLOW_COMMAND_SECONDS)
    except ProgramFailed as error:
        raise StartUpError(f"the head pod of RayJob {job.name} does not stop its job: {error}") from error
