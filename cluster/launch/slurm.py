"""The launcher `slurm`: an sbatch job that starts a Ray over its allocation and ends it again."""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.host.files import write_text
from cluster.host.programs import ProgramFailed, ProgramUnavailable, call_program, require_program
from cluster.launch.launcher import DriverState, DriverStatus, Submission
from cluster.launch.shared import COMMAND_SECONDS, SLOW_COMMAND_SECONDS, read_last_lines, start_once
from cluster.launch.slurm_script import render_script
from configs.base import ConfigError, StartUpError
from configs.launchers import SlurmLauncher
from configs.secrets import is_secret

WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"})
"""Slurm's states of a job (squeue(1)); in the others it has ended."""


class SlurmHandle(BaseModel):
    """Which job it is."""

    model_config = ConfigDict(frozen=True)

    job: int
    name: str
    log: Path

    def beside(self, kind: str) -> Path:
        """Return the path of a file of this job next to its log."""
        return self.log.with_name(f"{self.name}.{kind}")


class Slurm:
    """Starts drivers as batch jobs, from a machine where sbatch works and that has the nodes' files."""

    def __init__(self, config: SlurmLauncher) -> None:
        self._config = config

    def check(self) -> None:
        """Raise ConfigError if there is no sbatch here, StartUpError if no controller answers."""
        for program in ("sbatch", "scontrol", "scancel"):
            require_program(program, hint="submit from a login node of the Slurm cluster")
        try:
            _call("scontrol", "ping")
        except ProgramFailed as error:
            raise StartUpError(_no_answer(str(error))) from error

    def render(self, submission: Submission) -> str:
        """Return the batch script."""
        return render_script(self._config, submission)

    def submit(self, submission: Submission) -> str:
        """Hand the script to sbatch. It stays beside the log, to be read.

        Raises ConfigError if Slurm refuses the job, StartUpError if it does not answer in time.
        """
        record = submission.log.with_name(f"{submission.name}.slurm.json")
        return start_once(record, partial(_submit_job, submission, self.render(submission)))

    def status(self, handle: str) -> DriverStatus:
        """Return what the controller says; of a job that it has forgotten, what the accounting or the script noted."""
        job = SlurmHandle.model_validate_json(handle)
        try:
            return _status_from_controller(_call("scontrol", "show", "job", "--oneliner", str(job.job)))
        except ProgramFailed as error:
            return _status_from_accounting(job) or _status_from_script(job) or DriverStatus("unknown", str(error))

    def stop(self, handle: str) -> None:
        """Send Slurm's own warning, after which the job is not queued again; withdraw one that still waits."""
        job = SlurmHandle.model_validate_json(handle)
        state = self.status(handle).state
        if state in ("waiting", "running"):
            write_text(job.beside("stop"), "")
            _cancel(job.job, *(("--batch", "--signal=USR1") if state == "running" else ()))

    def kill(self, handle: str) -> None:
        """End all processes of the job at once."""
        job = SlurmHandle.model_validate_json(handle)
        state = self.status(handle).state
        if state in ("waiting", "running"):
            _cancel(job.job, *(("--full", "--signal=KILL") if state == "running" else ()))

    def last_output(self, handle: str) -> str:
        """Return the end of the log, which has all that the job printed."""
        return read_last_lines(SlurmHandle.model_validate_json(handle).log)


def _call(*command: str) -> str:
    """Return what a command of Slurm prints. Raises ProgramFailed if it ends badly or not in time."""
    return call_program(command, timeout_seconds=COMMAND_SECONDS)


def _no_answer(error: str) -> str:
    return f"Slurm's controller does not answer ({error}); see `scontrol ping`"


def _submit_job(submission: Submission, script: str) -> str:
    job_id = _find_queued_job(submission.name)
    if job_id is None:
        path = submission.log.absolute().with_name(f"{submission.name}.sbatch")
        write_text(path, script)
        printed = _call_to_submit("sbatch", "--parsable", str(path), environment=_job_environment(submission))
        job_id = int(printed.split(";")[0])
    return SlurmHandle(job=job_id, name=submission.name, log=submission.log.absolute()).model_dump_json()


def _find_queued_job(name: str) -> int | None:
    """Return the job of that name, if one waits or runs: a submission may have been cut off before it was recorded."""
    job_ids = _call_to_submit("squeue", "--noheader", "--me", f"--name={name}", "--format=%A").split()
    return min(map(int, job_ids), default=None)  # of a heterogeneous job the first component, which is its leader


def _call_to_submit(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a command prints. Raises StartUpError if it does not end in time, ConfigError if Slurm refuses."""
    try:
        return call_program(command, timeout_seconds=SLOW_COMMAND_SECONDS, environment=environment)
    except ProgramUnavailable as error:
        raise StartUpError(_no_answer(str(error))) from error
    except ProgramFailed as error:
        raise ConfigError(f"Slurm takes no such job: {error}; mend `launcher` in the cluster file") from error


def _job_environment(submission: Submission) -> dict[str, str]:
    """Return what sbatch passes on to the job: this shell's variables, as Slurm does, without secrets not asked for.

    Variables of a job that this process may itself be in are left out: the new job would take them for its own.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not is_secret(name) and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }
    return inherited | dict(submission.environment)


def _cancel(job_id: int, *options: str) -> None:
    try:
        _call("scancel", *options, str(job_id))
    except ProgramFailed as error:
        raise StartUpError(f"Slurm does not end job {job_id}: {error}") from error


def _status_from_controller(shown: str) -> DriverStatus:
    leader = shown.splitlines()[0]  # of a heterogeneous job, each component of which has a line
    fields = dict(re.findall(r"(JobState|Reason|ExitCode)=(\S+)", leader))
    reason = "" if fields["Reason"] == "None" else f" ({fields['Reason']})"
    return _driver_status(fields["JobState"], reason, fields["ExitCode"])


def _status_from_accounting(job: SlurmHandle) -> DriverStatus | None:
    """Return None where there is no accounting, or it knows nothing of the job."""
    try:
        shown = _call("sacct", "-nXP", "-j", str(job.job), "-o", "State,ExitCode").split("\n")[0]
    except ProgramFailed:
        return None
    state, _, code = shown.partition("|")
    return _driver_status(state.split()[0], "", code) if code else None


def _status_from_script(job: SlurmHandle) -> DriverStatus | None:
    """Return None if the script has not written the driver's exit code."""
    codes = job.beside("code")
    return DriverStatus("ended", f"exit code {codes.read_text().split()[-1]}") if codes.exists() else None


def _driver_status(slurm_state: str, reason: str, code: str) -> DriverStatus:
    state: DriverState = "waiting" if slurm_state in WAITING else "running" if slurm_state in RUNNING else "ended"
    exit_code = f", exit code {code.split(':')[0]}" if state == "ended" else ""
    return DriverStatus(state, f"{slurm_state}{reason}{exit_code}")
