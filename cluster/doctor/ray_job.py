"""The doctor sent to a Ray cluster as a job, for who is not on one of its nodes."""

import logging
import shlex
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from ray.job_submission import JobSubmissionClient

from cluster.doctor.inside import MARK, Order
from cluster.doctor.report import Report, fail
from cluster.doctor.software import ROOT
from cluster.launch.code import stage_code
from configs.cluster import ClusterConfig
from configs.launchers import RayLauncher

SECONDS, QUICK_SECONDS = 300.0, 60.0
"""For the job to start and to end."""

_SECONDS_BETWEEN_LOOKS = 0.2
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")


def examine_by_job(machines: ClusterConfig, *, store: Path, quick: bool) -> Report:
    """What the nodes of the cluster say whose dashboard the launcher `ray` names."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    launcher = machines.launcher
    assert isinstance(launcher, RayLauncher)
    client = JobSubmissionClient(launcher.dashboard_address.rstrip("/"))
    order = Order(machines=machines, store=store, quick=quick)
    try:
        job = _submit(client, order, max_mib=launcher.max_code_mib)
    except RuntimeError as error:  # what the client raises whenever the cluster refuses
        fix = "ray status, and the dashboard's page of nodes, say what the cluster lacks"
        return Report(quick=quick, findings=(fail("nodes", f"the cluster took no job: {error}", fix=fix),))
    try:
        if not _has_ended(client, job, seconds=QUICK_SECONDS if quick else SECONDS):
            seen = f"the job {job} is {client.get_job_status(job)} and has not ended in time"
            fix = f"ray job logs {job}; a cluster with nothing free on its head node starts no job"
            return Report(quick=quick, findings=(fail("nodes", seen, fix=fix),))
        return report_in(client.get_job_logs(job), job=job, quick=quick)
    finally:
        client.stop_job(job)


def _submit(client: JobSubmissionClient, order: Order, *, max_mib: int) -> str:
    with TemporaryDirectory(prefix="concord-") as code:
        stage_code(ROOT, Path(code), max_mib=max_mib)
        return str(
            client.submit_job(
                entrypoint=_entrypoint(order),
                submission_id=f"doctor-{uuid.uuid4().hex[:8]}",
                runtime_env={"working_dir": code, "env_vars": dict(order.machines.environment)},
            )
        )


def _entrypoint(order: Order) -> str:
    here = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH " if sys.prefix != sys.base_prefix else ""
    return f"{here}exec {shlex.join(['python', '-m', 'cluster.doctor.inside', order.model_dump_json()])}"


def _has_ended(client: JobSubmissionClient, job: str, *, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > until:
            return False
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return True


def report_in(log: str, *, job: str, quick: bool) -> Report:
    """The report that a job has printed, or one that says that there is none."""
    for line in log.splitlines():
        if line.startswith(MARK):
            return Report.model_validate_json(line.removeprefix(MARK))
    said = (log.strip().splitlines() or ["nothing"])[-1]
    fix = f"ray job logs {job} shows the rest; the head node needs Concord's environment"
    return Report(quick=quick, findings=(fail("nodes", f"the job {job} ended with: {said[:300]}", fix=fix),))
