"""The batch script that brings a Ray up over a Slurm allocation, runs a driver on it, and ends it again.

This renders its directives and variables; what it does stands in `slurm_job.sh`.
"""

import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.host.limits import OBJECT_STORE_BYTES
from cluster.launch.launcher import Submission
from cluster.launch.shared import python_path
from configs.base import ConfigError
from configs.cluster import fewest_nodes
from configs.launchers import SlurmLauncher

FIRST_PORT, NUM_PORTS = 20000, 10000
"""Range of the port of a job's Ray, which its job id picks: below the ports that the system gives out, above those of
Ray's workers."""

_BODY = Path(__file__).with_name("slurm_job.sh")

_WORD = re.compile(r"[^\s#'\"\\]+")
"""A value that needs no quotes on an #SBATCH line."""


def render_script(config: SlurmLauncher, submission: Submission) -> str:
    """Return the whole script. It holds no secret."""
    directives = [f"#SBATCH --{option}" for option in _options(config, submission, _fewest(config, submission))]
    setup = ["setup() {", *(f"    {line}" for line in config.setup or (":",)), "}"]
    _, _, body = _BODY.read_text(encoding="utf-8").partition("\n\n")  # without the file's header
    return "\n".join(["#!/bin/bash", *directives, "", *_variables(config, submission), "", *setup, "", body])


def _fewest(config: SlurmLauncher, submission: Submission) -> int:
    return fewest_nodes(config, submission.cluster.pools) or config.num_nodes


def _options(config: SlurmLauncher, submission: Submission, fewest: int) -> Iterator[str]:
    yield f"job-name={submission.name}"
    if fewest == config.num_nodes:
        yield f"nodes={config.num_nodes}"
        yield "ntasks-per-node=1"
    else:  # where --ntasks-per-node would make it the fewest nodes, whatever is free
        yield f"nodes={fewest}-{config.num_nodes}"
        yield "no-kill"
        if config.cpus_per_node is not None:
            yield f"mincpus={config.cpus_per_node}"
    yield "exclusive" if config.cpus_per_node is None else f"cpus-per-task={config.cpus_per_node}"
    if config.gpus_per_node:
        yield f"gpus-per-node={config.gpus_per_node}"
    if config.memory_gib_per_node:
        yield f"mem={math.ceil(config.memory_gib_per_node * 1024)}M"
    elif config.cpus_per_node is None:
        yield "mem=0"
    for name in ("partition", "account", "qos"):
        if value := getattr(config, name):
            yield f"{name}={value}"
    if config.time_limit_minutes:
        yield f"time={config.time_limit_minutes}"
    yield f'output="{_quotable(submission.log.absolute()).replace("%", "%%")}"'
    yield "open-mode=append"
    yield f"signal=B:USR1@{config.signal_seconds}"
    yield "requeue" if config.requeue else "no-requeue"
    for name, value in config.options.items():
        quoted = value if _WORD.fullmatch(value) else f'"{value}"'
        yield f"{name}={quoted}" if value else name


def _quotable(log: Path) -> str:
    """Return the path if it can stand between double quotes on an #SBATCH line. Raises ConfigError otherwise."""
    if re.search(r'["\\\n\r]', str(log)):
        raise ConfigError(
            f"the path of the log, {str(log)!r}, has a quote, a backslash or a line break, which sbatch cannot read; "
            "give another store: --set store=DIR"
        )
    return str(log)


def _variables(config: SlurmLauncher, submission: Submission) -> Iterator[str]:
    """Yield the assignments of the variables that `slurm_job.sh` uses."""
    beside = {
        kind: submission.log.absolute().with_name(f"{submission.name}.{kind}") for kind in ("token", "code", "stop")
    }
    yield f"command=({shlex.join(submission.command)})"
    # The Python that `setup` makes ready is found by name; without `setup` the nodes have this very Python.
    yield f"python={'python' if config.setup else shlex.quote(sys.executable)}"
    yield f"export PYTHONPATH={shlex.quote(python_path(submission))}"
    # Slurm would go on in /tmp if it were not there.
    yield f"directory={shlex.quote(str(submission.directory.absolute()))}"
    yield f"token={shlex.quote(str(beside['token']))}"
    yield f"code_file={shlex.quote(str(beside['code']))}"
    yield f"stop_file={shlex.quote(str(beside['stop']))}"
    yield f"whole_nodes={'yes' if config.cpus_per_node is None and config.gpus_per_node is None else ''}"
    yield f"fewest={_fewest(config, submission)} object_bytes={OBJECT_STORE_BYTES}"
    yield f"start_timeout={math.ceil(config.start_timeout_seconds)}"
    yield f"requeue={'yes' if config.requeue else ''}"
    retries = submission.cluster.retries
    yield f"infrastructure_retries={retries.infrastructure} start_up_retries={retries.start_up}"
    yield f"FIRST_PORT={FIRST_PORT} NUM_PORTS={NUM_PORTS}"
