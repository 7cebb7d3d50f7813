"""The start of a driver on the head node of a running Ray: `python -m cluster.launch.entry ... -- -m pipeline.cli ...`.

The process becomes the driver, in the directory that the run was submitted from, and what it prints goes to the run's
log as well.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.launch.code import ROOT
from cluster.launch.launcher import Submission
from configs.base import ConfigError


def entry_command(submission: Submission, *, expect: Sequence[str] = ()) -> str:
    """Return the shell command that starts a driver where the packages are in the working directory or on PYTHONPATH.

    `expect` names variables that the driver should find in its environment; the log says which of them it lacks.
    """
    options = ["--directory", str(submission.directory.absolute()), "--log", str(submission.log.absolute())]
    options += [word for name in expect for word in ("--expect", name)]
    return shlex.join(["python", "-m", "cluster.launch.entry", *options, "--", *submission.command])


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the driver. Raises ConfigError if the run's files are not here."""
    parser = argparse.ArgumentParser(prog="cluster.launch.entry")
    parser.add_argument("--directory", type=Path, required=True, help="where the run was submitted from")
    parser.add_argument("--log", type=Path, required=True, help="what the driver prints is appended to it")
    parser.add_argument("--expect", action="append", default=[], help="a variable that should be set")
    parser.add_argument("command", nargs="+", help="what Python is started with")
    options = parser.parse_args(arguments)

    _check_files(options.directory, options.log)
    _copy_output_to(options.log)
    if missing := [name for name in options.expect if name not in os.environ]:
        print(
            f"concord: {', '.join(missing)}, set where the run was submitted, is not set here: a secret is not sent to"
        )
        print("concord: a Ray that runs, whose API would show it; set it where that Ray is started", flush=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    os.chdir(options.directory)
    # -P: the code that was sent, whatever packages lie in the working directory.
    driver = [sys.executable, "-P", *options.command, "--ray-address", os.environ["RAY_ADDRESS"]]
    os.execv(sys.executable, driver)


def _check_files(directory: Path, log: Path) -> None:
    host = os.uname().nodename
    if not directory.is_dir():
        raise ConfigError(
            f"{directory}, where the run was submitted from, is not on the cluster's head node {host}; submit from a "
            "directory that the cluster shares"
        )
    if not os.access(log.parent, os.W_OK):
        raise ConfigError(
            f"the head node {host} cannot write {log.parent}, which is in the store; put the store on a file system "
            "that the cluster shares, writable for the user that Ray runs as"
        )


def _copy_output_to(log: Path) -> None:
    """Send what is printed from now on to `log` as well.

    Ray sends SIGTERM to all processes of a job: the copying process ignores it, for what is printed while saving.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tee = subprocess.Popen(["tee", "-a", str(log)], stdin=subprocess.PIPE)
    signal.signal(signal.SIGTERM, before)
    assert tee.stdin is not None
    os.dup2(tee.stdin.fileno(), sys.stdout.fileno())
    os.dup2(tee.stdin.fileno(), sys.stderr.fileno())


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"concord: {error}")
