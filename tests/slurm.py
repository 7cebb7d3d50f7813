"""A real Slurm on hosts of this machine.

    @needs_slurm
    def test_a_job_runs(tmp_path, monkeypatch):
        with slurm(tmp_path, 2) as cluster:                              # nodes host1 and host2 (see hosts.py)
            monkeypatch.setenv("SLURM_CONF", str(cluster.conf))          # so sbatch, squeue and scancel work here
            job = cluster.call("sbatch", "--parsable", "--nodes=2", "job.sh").strip()
            cluster.wait_for(job, "RUNNING")
            cluster.call("scancel", "--batch", "--signal=USR1", job)     # or preempt(), nodes[1].power_off(), ...

Jobs go to the partition `normal`, where one that has to make room for a job in `urgent` is killed after `grace_seconds`
and queued again. Files below `directory` are shared by the nodes, and by this machine. A job that was queued again
starts after some six seconds. There is no accounting, so `sacct` knows nothing.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts import Host, hosts
from tests.namespaces import why_no_hosts

CONF = """
ClusterName=concord
SlurmctldHost=host1({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preempt}
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
KillWait=2
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={node_timeout_seconds}
StateSaveLocation={directory}/state
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
{nodes}
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_seconds}
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF
"""
"""`cred_expire` is also how many seconds a job that was queued again has to wait."""


def _why_not() -> str:
    """Return why there can be no Slurm here; empty if there can."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not _path(name)]
    return f"Slurm tests need {missing[0]} (apt-get install slurm-wlm munge)" if missing else why_no_hosts()


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


needs_slurm = pytest.mark.skipif(
    bool(_why_not()) and not os.environ.get("CONCORD_NEEDS_SLURM"), reason=_why_not() or "there can be a Slurm"
)
"""Skips a test where there can be no Slurm; with CONCORD_NEEDS_SLURM in the environment the test fails there."""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm."""

    nodes: list[Host]
    """The first also runs the controller."""

    conf: Path
    """The configuration file, for SLURM_CONF."""

    def call(self, *command: str) -> str:
        """Run a command of Slurm on this machine to its end and return what it printed."""
        env = os.environ | {"SLURM_CONF": str(self.conf)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """Return the state of a job, such as PENDING, RUNNING, COMPLETED."""
        return self._field(job, "JobState")

    def restarts(self, job: str) -> int:
        """Return how often a job was queued again."""
        return int(self._field(job, "Restarts"))

    def wait_for(self, job: str, *states: str, timeout: float = 60) -> str:
        """Wait until a job is in one of the states, and return which."""
        deadline = time.monotonic() + timeout
        while (state := self.state(job)) not in states:
            assert time.monotonic() < deadline, (
                f"job {job} is not {states}:\n{self.call('scontrol', 'show', 'job', job)}"
            )
            time.sleep(0.1)
        return state

    def preempt(self, *, seconds: int = 1) -> str:
        """Submit a job that pre-empts those on all nodes; return its id."""
        options = [
            "--parsable",
            "--partition=urgent",
            f"--nodes={len(self.nodes)}",
            "--exclusive",
            "--output=/dev/null",
        ]
        return self.call("sbatch", *options, f"--wrap=sleep {seconds}").strip()

    def _field(self, job: str, name: str) -> str:
        shown = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in shown if word.startswith(f"{name}="))


@contextmanager
def slurm(
    directory: Path,
    number: int,
    *,
    cpus: int = 1,
    gpus: int = 0,
    grace_seconds: int = 10,
    send_user_signal: bool = False,
    node_timeout_seconds: int = 10,
) -> Iterator[Slurm]:
    """Bring up a Slurm with `number` nodes of `cpus` cores and `gpus` GPUs each, and wait until all are idle.

    The GPUs are files without a device: enough for Slurm to say which step gets how many.

    A job that is pre-empted gets a signal when its `grace_seconds` begin: SIGTERM to its steps, not to its script; or,
    with `send_user_signal`, which a site may have set, the signal that its `--signal` names. The loss of a node is
    noticed after two to three times `node_timeout_seconds`.
    """
    assert not _why_not(), _why_not()
    with hosts(directory, number) as nodes:
        conf = directory / "slurm.conf"
        gres = f" Gres=gpu:{gpus}" if gpus else ""
        lines = [f"NodeName={node.name} NodeAddr={node.address} CPUs={cpus} RealMemory=1000{gres}" for node in nodes]
        _make_gpus(directory, gpus)
        settings = {"grace_seconds": grace_seconds, "node_timeout_seconds": node_timeout_seconds}
        preempt = "SlurmctldParameters=preempt_send_user_signal" if send_user_signal else ""
        where = {"address": nodes[0].address, "directory": directory, "nodes": "\n".join(lines)}
        text = CONF.format(**settings, **where, preempt=preempt)
        conf.write_text(text, encoding="utf-8")
        cluster = Slurm(nodes, conf)
        _start_munge(nodes[0], directory)
        (directory / "state").mkdir()
        nodes[0].call([str(_path("slurmctld")), "-f", str(conf)])
        for node in nodes:
            start_node(cluster, node)
        _wait_until_idle(cluster)
        yield cluster


def _make_gpus(directory: Path, number: int) -> None:
    files = [directory / f"gpu{index}" for index in range(number)]
    for file in files:
        file.touch()
    (directory / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in files), encoding="utf-8")


def start_node(cluster: Slurm, node: Host) -> None:
    """Start the daemon of a node, as after a loss of power."""
    node.call([str(_path("slurmd")), "-f", str(cluster.conf)])


def _start_munge(host: Host, directory: Path) -> None:
    """Start munge, by which Slurm's processes authenticate. One is enough: the hosts share its socket."""
    base = directory / "munge"
    base.mkdir(mode=0o711)
    (base / "key").touch(mode=0o600)
    (base / "key").write_bytes(os.urandom(128))
    files = [f"--{name}-file={base / name}" for name in ("key", "log", "pid", "seed")]
    host.call([str(_path("munged")), "--force", f"--socket={base / 'socket'}", *files])


def _wait_until_idle(cluster: Slurm) -> None:
    deadline = time.monotonic() + 60
    query = ["sinfo", "--noheader", "--partition=normal", "--Node", "--format=%T"]
    while set(states := cluster.call(*query).split()) != {"idle"}:
        assert time.monotonic() < deadline, f"the nodes of Slurm are {states}"
        time.sleep(0.1)
