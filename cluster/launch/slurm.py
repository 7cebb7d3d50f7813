"""The launcher `slurm`: an sbatch job that starts a Ray over its allocation and ends it again."""

import os
import re
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.host.files import write_text
from cluster.launch.launcher import State, Submission, Whereabouts
from cluster.launch.shared import CommandFailed, call, end_of, require, started_once
from cluster.launch.slurm_script import script
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
        """A file of this job next to its log."""
        return self.log.with_name(f"{self.name}.{kind}")


class Slurm:
    """Starts drivers as batch jobs, from a machine where sbatch works and that has the nodes' files."""

    def __init__(self, config: SlurmLauncher) -> None:
        self._config = config

    def check(self) -> None:
        """Raise ConfigError if there is no sbatch here, StartUpError if no controller answers."""
        for program in ("sbatch", "scontrol", "scancel"):
            require(program, hint="submit from a login node of the Slurm cluster")
        try:
            call(["scontrol", "ping"])
        except CommandFailed as error:
            raise StartUpError(f"Slurm's controller does not answer ({error}); see `scontrol ping`") from error

    def render(self, submission: Submission) -> str:
        """The batch script."""
        return script(self._config, submission)

    def submit(self, submission: Submission) -> str:
        """Hand the script to sbatch. It stays beside the log, to be read."""
        record = submission.log.with_name(f"{submission.name}.slurm.json")
        return started_once(record, partial(_start, submission, self.render(submission)))

    def look(self, handle: str) -> Whereabouts:
        """The controller's word; of jobs that it has forgotten, the accounting's, or what the script noted."""
        job = SlurmHandle.model_validate_json(handle)
        try:
            return _of_controller(call(["scontrol", "show", "job", "--oneliner", str(job.job)]))
        except CommandFailed as error:
            return _of_accounting(job) or _of_script(job) or Whereabouts("unknown", str(error))

    def stop(self, handle: str) -> None:
        """Slurm's own warning, after which the job is not queued again; one that waits is taken out of the queue."""
        job = SlurmHandle.model_validate_json(handle)
        state = self.look(handle).state
        if state in ("waiting", "running"):
            write_text(job.beside("stop"), "")
            _cancel(job.job, *(("--batch", "--signal=USR1") if state == "running" else ()))

    def kill(self, handle: str) -> None:
        """End all processes of the job at once."""
        job = SlurmHandle.model_validate_json(handle)
        state = self.look(handle).state
        if state in ("waiting", "running"):
            _cancel(job.job, *(("--full", "--signal=KILL") if state == "running" else ()))

    def last_words(self, handle: str) -> str:
        """The end of the log, which has all that the job printed."""
        return end_of(SlurmHandle.model_validate_json(handle).log)


def _start(submission: Submission, text: str) -> str:
    try:
        number = _queued(submission.name)
        if number is None:
            path = submission.log.absolute().with_name(f"{submission.name}.sbatch")
            write_text(path, text)
            number = int(call(["sbatch", "--parsable", str(path)], environment=_environment(submission)).split(";")[0])
    except CommandFailed as error:
        raise ConfigError(f"Slurm takes no such job: {error}; mend `launcher` in the cluster file") from error
    return SlurmHandle(job=number, name=submission.name, log=submission.log.absolute()).model_dump_json()


def _queued(name: str) -> int | None:
    """The job of that name, if one waits or runs: a submission may have been cut off before it could note it."""
    numbers = call(["squeue", "--noheader", "--me", f"--name={name}", "--format=%A"]).split()
    return int(numbers[0]) if numbers else None


def _environment(submission: Submission) -> dict[str, str]:
    """What sbatch passes on to the job: this shell's, as is Slurm's custom, without secrets that nobody asked for.

    Variables of a job that we may be in ourselves would be taken for the new one's.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not is_secret(name) and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }
    return inherited | dict(submission.environment)


def _cancel(job: int, *options: str) -> None:
    try:
        call(["scancel", *options, str(job)])
    except CommandFailed as error:
        raise StartUpError(f"Slurm does not end job {job}: {error}") from error


def _of_controller(shown: str) -> Whereabouts:
    fields = dict(re.findall(r"(JobState|Reason|ExitCode)=(\S+)", shown))
    reason = "" if fields["Reason"] == "None" else f" ({fields['Reason']})"
    return _whereabouts(fields["JobState"], reason, fields["ExitCode"])


def _of_accounting(job: SlurmHandle) -> Whereabouts | None:
    """None where there is no accounting, or it knows nothing."""
    try:
        shown = call(["sacct", "-nXP", "-j", str(job.job), "-o", "State,ExitCode"]).split("\n")[0]
    except (CommandFailed, FileNotFoundError):
        return None
    state, _, code = shown.partition("|")
    return _whereabouts(state.split()[0], "", code) if code else None


def _of_script(job: SlurmHandle) -> Whereabouts | None:
    left = job.beside("code")
    return Whereabouts("ended", f"exit code {left.read_text().split()[-1]}") if left.exists() else None


def _whereabouts(word: str, reason: str, code: str) -> Whereabouts:
    state: State = "waiting" if word in WAITING else "running" if word in RUNNING else "ended"
    ended = f", exit code {code.split(':')[0]}" if state == "ended" else ""
    return Whereabouts(state, f"{word}{reason}{ended}")
