"""The launcher `ray`: a job of a Ray cluster that runs, through its Jobs API."""

import json
import logging
import shlex
import sys
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import ray
from pydantic import BaseModel, ConfigDict
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.host.network import is_loopback
from cluster.host.retry import fixed_waits, retry
from cluster.launch.code import stage_code
from cluster.launch.entry import entry_command
from cluster.launch.launcher import DriverState, DriverStatus, Submission
from cluster.launch.shared import grace_before_kill_seconds, last_lines, public_environment, secret_names
from configs.base import ConfigError, StartUpError
from configs.launchers import RayLauncher

TIMEOUT_SECONDS = 10.0
AGENT_SECONDS, SECONDS_BETWEEN_TRIES = 60.0, 1.0
NOT_YET = "No available agent"
"""What Ray 2.60 answers to a job while it comes up, for AGENT_SECONDS at most."""

REFUSED = (401, 403)
TOKEN_FIX = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here as there"

_UPLOAD_LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""Loggers of Ray that report each upload."""

STATES: dict[JobStatus, DriverState] = {
    JobStatus.PENDING: "waiting",
    JobStatus.RUNNING: "running",
    JobStatus.STOPPED: "ended",
    JobStatus.SUCCEEDED: "ended",
    JobStatus.FAILED: "ended",
}


class RayHandle(BaseModel):
    """Which job it is."""

    model_config = ConfigDict(frozen=True)

    address: str
    """URL of the dashboard."""

    job: str
    """Submission id: the name of the submission, which Ray lets nobody use twice."""


class RayJobs:
    """Starts drivers on the head node of a running cluster. Sends the code; installs nothing."""

    def __init__(self, config: RayLauncher, *, allow_no_token: bool = False) -> None:
        self._config, self._address = config, config.dashboard_address.rstrip("/")
        self._allow_no_token = allow_no_token

    def check(self) -> None:
        """Raise StartUpError if no dashboard answers, ConfigError if it refuses us, is open to anybody on another
        machine, or is of another version."""
        try:
            version = _fetch_version(self._address, {})
            if not self._allow_no_token and not is_loopback(urlsplit(self._address).hostname or ""):
                raise ConfigError(
                    f"the Ray at {self._address} wants no token, so whoever reaches it can run any code there; start "
                    "it with RAY_AUTH_MODE=token, or say `allow_no_token: true` in the cluster file"
                )
        except PermissionError:
            version = _version_with_token(self._address)
        if version != ray.__version__:
            raise ConfigError(
                f"the Ray at {self._address} is of version {version}, and this one is {ray.__version__}; submit from "
                "the environment that the cluster has"
            )

    def render(self, submission: Submission) -> str:
        """Return the command that runs on the head node."""
        return _entrypoint(submission)

    def submit(self, submission: Submission) -> str:
        """Send the code and start the job."""
        client = _client(self._address)
        silence_upload_logs()
        handle = RayHandle(address=self._address, job=submission.name).model_dump_json()
        with TemporaryDirectory(prefix="concord-") as staged:
            stage_code(submission.code, Path(staged), max_mib=self._config.max_code_mib)
            request = {
                "entrypoint": _entrypoint(submission),
                "submission_id": submission.name,
                "runtime_env": {"working_dir": staged, "env_vars": _environment(submission)},
                "metadata": {"run": submission.run},
            }
            _submit_job(client, request)
        return handle

    def status(self, handle: str) -> DriverStatus:
        """Return what Ray says of the job."""
        job = RayHandle.model_validate_json(handle)
        try:
            info = _fetch_info(_client(job.address), job.job)
        except (StartUpError, ConfigError) as error:
            return DriverStatus("unknown", str(error))
        if info is None:
            return DriverStatus("unknown", f"the Ray at {job.address} has no job {job.job}")
        code = "" if info.driver_exit_code is None else f", exit code {info.driver_exit_code}"
        return DriverStatus(STATES[info.status], f"{info.status}{code}")

    def stop(self, handle: str) -> None:
        """Have Ray send SIGTERM to the driver, and SIGKILL after its grace (the job's RAY_JOB_STOP_WAIT_TIME_S)."""
        job = RayHandle.model_validate_json(handle)
        client = _client(job.address)
        info = _fetch_info(client, job.job)
        if info is not None and not info.status.is_terminal():
            client.stop_job(job.job)

    def kill(self, handle: str) -> None:
        """Do as `stop` does: Ray has no way to end a job at once, so it may live on for its grace."""
        self.stop(handle)

    def last_output(self, handle: str) -> str:
        """Return the end of the driver's output that Ray has kept, or what Ray says of a job that never had any."""
        job = RayHandle.model_validate_json(handle)
        client = _client(job.address)
        info = _fetch_info(client, job.job)
        return "" if info is None else last_lines(client.get_job_logs(job.job)) or info.message or ""


def silence_upload_logs() -> None:
    """Keep Ray from logging each upload of code."""
    for name in _UPLOAD_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def with_own_python(command: str) -> str:
    """Return a shell command that runs `command` on a node of a cluster, with this environment's Python if there.

    Clusters often have the environment at the same path, but not on the PATH that Ray was started with.
    """
    path = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH " if sys.prefix != sys.base_prefix else ""
    return f"{path}exec {command}"


def _submit_job(client: JobSubmissionClient, request: dict[str, Any]) -> None:
    """Submit a job, unless it was submitted before.

    The dashboard of a new cluster answers before its agent takes jobs, so a refusal that says so is retried. Raises
    StartUpError if the cluster takes no job.
    """

    def submit_once() -> None:
        try:
            client.submit_job(**request)
        except RuntimeError:
            if _fetch_info(client, request["submission_id"]) is None:
                raise

    def is_starting(error: Exception) -> bool:
        return isinstance(error, RuntimeError) and NOT_YET in str(error)

    try:
        retry(
            submit_once, waits=fixed_waits(SECONDS_BETWEEN_TRIES, for_seconds=AGENT_SECONDS), is_transient=is_starting
        )
    except RuntimeError as error:
        raise StartUpError(f"the Ray at {client.get_address()} took no job: {error}") from error


def _client(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise StartUpError(f"no Ray answers at {address}; check that the head node is up") from error
    except (AuthenticationError, RuntimeError) as error:
        raise ConfigError(f"the Ray at {address} refuses us; {TOKEN_FIX}") from error


def _entrypoint(submission: Submission) -> str:
    return with_own_python(entry_command(submission, expect=secret_names(submission)))


def _environment(submission: Submission) -> dict[str, str]:
    """Return variables for the driver and its workers, without secrets, for Ray's API shows them."""
    return public_environment(submission) | {"RAY_JOB_STOP_WAIT_TIME_S": str(grace_before_kill_seconds(submission))}


def _fetch_info(client: JobSubmissionClient, job: str) -> JobDetails | None:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        if "404" in str(error):
            return None
        raise StartUpError(f"the Ray at {client.get_address()} does not say how job {job} is: {error}") from error


def _version_with_token(address: str) -> str:
    """Return Ray's version, shown our token. Raises ConfigError if there is none here, or it is refused."""
    try:
        headers = get_auth_headers_if_auth_enabled({})
        if not headers:
            raise ConfigError(f"the Ray at {address} wants a token; {TOKEN_FIX}")
        return _fetch_version(address, headers)
    except (PermissionError, AuthenticationError) as error:
        raise ConfigError(f"the Ray at {address} refuses this token; {TOKEN_FIX}") from error


def _fetch_version(address: str, headers: dict[str, str]) -> str:
    """Return Ray's version, as its dashboard gives it.

    Raises PermissionError if it wants another token, StartUpError if no dashboard of a Ray answers.
    """
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in REFUSED:
            raise PermissionError(address) from error
        raise StartUpError(f"{address} answers {error.code} {error.reason}; check `dashboard_address`") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise StartUpError(
            f"no Ray dashboard answers at {address} ({reason}); check `dashboard_address` and that the head node is up"
        ) from error
    except (ValueError, KeyError) as error:
        raise StartUpError(f"what answers at {address} is no Ray dashboard; check `dashboard_address`") from error
