"""The batch script that brings a Ray up over a Slurm allocation, runs a driver on it, and ends it again.

This renders its directives and variables; what it does stands in `slurm_job.sh`.
"""

import math
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.host.limits import OBJECT_STORE_BYTES
from cluster.launch.launcher import Submission
from cluster.launch.shared import python_path
from configs.base import ConfigError
from configs.cluster import fewest_nodes
from configs.launchers import NodeGroup, SlurmLauncher, node_groups, slurm_for

FIRST_PORT, NUM_PORTS = 20000, 10000
"""Range of the port of a job's Ray, which its job id picks: below the ports that the system gives out, above those of
Ray's workers."""

_BODY = Path(__file__).with_name("slurm_job.sh")

_WORD = re.compile(r"[^\s#'\"\\]+")
"""A value that needs no quotes on an #SBATCH line."""


def render_script(config: SlurmLauncher, submission: Submission) -> str:
    """Return the whole script. It holds no secret."""
    groups = node_groups(config, submission.cluster.pools)
    setup = ["setup() {", *(f"    {line}" for line in config.setup or (":",)), "}"]
    _, _, body = _BODY.read_text(encoding="utf-8").partition("\n\n")  # without the file's header
    variables = _variables(config, submission, groups)
    return "\n".join(["#!/bin/bash", *_directives(config, submission, groups), "", *variables, "", *setup, "", body])


def _fewest(config: SlurmLauncher, submission: Submission, groups: Sequence[NodeGroup]) -> int:
    return fewest_nodes(config, submission.cluster.pools) or sum(group.num_nodes for group in groups)


def _directives(config: SlurmLauncher, submission: Submission, groups: Sequence[NodeGroup]) -> Iterator[str]:
    """Yield what the job asks for: one component for each kind of nodes, of which the first has the batch script."""
    fewest = _fewest(config, submission, groups)
    yield f"#SBATCH --job-name={submission.name}"
    for number, group in enumerate(groups):
        asked = slurm_for(config, group.kind)
        if number:  # sbatch forgets most of what stands above
            yield "#SBATCH hetjob"
        options = [*_options(asked, group.num_nodes, min(fewest, group.num_nodes))]
        if not number:
            options += [f'output="{_quotable(submission.log.absolute()).replace("%", "%%")}"', "open-mode=append"]
            options += [f"signal=B:USR1@{config.signal_seconds}"]
        options += ["requeue" if config.requeue else "no-requeue", *_own_options(asked)]
        yield from (f"#SBATCH --{option}" for option in options)


def _options(config: SlurmLauncher, num_nodes: int, fewest: int) -> Iterator[str]:
    if fewest == num_nodes:
        yield f"nodes={num_nodes}"
        yield "ntasks-per-node=1"
    else:  # where --ntasks-per-node would make it the fewest nodes, whatever is free
        yield f"nodes={fewest}-{num_nodes}"
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


def _own_options(config: SlurmLauncher) -> Iterator[str]:
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


def _variables(config: SlurmLauncher, submission: Submission, groups: Sequence[NodeGroup]) -> Iterator[str]:
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
    asked = [slurm_for(config, group.kind) for group in groups]
    whole = ["yes" if one.cpus_per_node is None and one.gpus_per_node is None else "" for one in asked]
    labels = [",".join(f"{key}={value}" for key, value in group.labels.items()) for group in groups]
    yield f"whole_nodes=({shlex.join(whole)}) labels=({shlex.join(labels)})"
    yield f"fewest={_fewest(config, submission, groups)} object_bytes={OBJECT_STORE_BYTES}"
    yield f"start_timeout={math.ceil(config.start_timeout_seconds)}"
    yield f"requeue={'yes' if config.requeue else ''}"
    retries = submission.cluster.retries
    yield f"infrastructure_retries={retries.infrastructure} start_up_retries={retries.start_up}"
    yield f"FIRST_PORT={FIRST_PORT} NUM_PORTS={NUM_PORTS}"
