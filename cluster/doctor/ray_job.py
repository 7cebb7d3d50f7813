"""The doctor sent to a Ray cluster as a job, for a user who is not on one of its nodes."""

import shlex
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from ray.job_submission import JobSubmissionClient

from cluster.doctor.inside import REPORT_PREFIX, Examination
from cluster.doctor.report import Report, fail
from cluster.launch.code import ROOT, stage_code
from cluster.launch.ray_jobs import silence_upload_logs, with_own_python
from configs.cluster import ClusterConfig
from configs.launchers import RayLauncher

SECONDS, QUICK_SECONDS = 300.0, 60.0
"""Time limit for the job to start and to end."""

_SECONDS_BETWEEN_POLLS = 0.2


def examine_by_job(machines: ClusterConfig, *, store: Path, quick: bool) -> Report:
    """Report what the nodes find of the cluster whose dashboard the launcher `ray` names."""
    silence_upload_logs()
    launcher = machines.launcher
    assert isinstance(launcher, RayLauncher)
    client = JobSubmissionClient(launcher.dashboard_address.rstrip("/"))
    examination = Examination(machines=machines, store=store, quick=quick)
    try:
        job = _submit(client, examination, max_mib=launcher.max_code_mib)
    except RuntimeError as error:  # what the client raises whenever the cluster refuses
        fix = "ray status, and the dashboard's page of nodes, say what the cluster lacks"
        return Report(quick=quick, findings=(fail("nodes", f"the cluster took no job: {error}", fix=fix),))
    try:
        if not _wait_for_end(client, job, timeout_seconds=QUICK_SECONDS if quick else SECONDS):
            seen = f"the job {job} is {client.get_job_status(job)} and has not ended in time"
            fix = f"ray job logs {job}; a cluster with nothing free on its head node starts no job"
            return Report(quick=quick, findings=(fail("nodes", seen, fix=fix),))
        return find_report(client.get_job_logs(job), job=job, quick=quick)
    finally:
        client.stop_job(job)


def find_report(log: str, *, job: str, quick: bool) -> Report:
    """Return the report that a job has printed, or one that says that there is none."""
    for line in log.splitlines():
        if line.startswith(REPORT_PREFIX):
            return Report.model_validate_json(line.removeprefix(REPORT_PREFIX))
    last_line = (log.strip().splitlines() or ["nothing"])[-1]
    fix = f"ray job logs {job} shows the rest; the head node needs Concord's environment"
    return Report(quick=quick, findings=(fail("nodes", f"the job {job} ended with: {last_line[:300]}", fix=fix),))


def _submit(client: JobSubmissionClient, examination: Examination, *, max_mib: int) -> str:
    """Send the code and start the job; return its id."""
    command = shlex.join(["python", "-m", "cluster.doctor.inside", examination.model_dump_json()])
    with TemporaryDirectory(prefix="concord-") as code:
        stage_code(ROOT, Path(code), max_mib=max_mib)
        return str(
            client.submit_job(
                entrypoint=with_own_python(command),
                submission_id=f"doctor-{uuid.uuid4().hex[:8]}",
                runtime_env={"working_dir": code, "env_vars": dict(examination.machines.environment)},
            )
        )


def _wait_for_end(client: JobSubmissionClient, job: str, *, timeout_seconds: float) -> bool:
    """Wait until the job has ended, or the time is up; return whether it has ended."""
    deadline = time.monotonic() + timeout_seconds
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > deadline:
            return False
        time.sleep(_SECONDS_BETWEEN_POLLS)
    return True
