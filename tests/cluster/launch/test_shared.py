"""What launchers do on a machine without their programs, and when these hang."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.launch.kubernetes import Kubernetes, KubernetesHandle
from cluster.launch.launcher import Launcher
from cluster.launch.shared import start_once
from cluster.launch.slurm import Slurm, SlurmHandle
from configs.base import ConfigError, StartUpError, UserError
from configs.cluster import ClusterConfig
from configs.launchers import KubernetesLauncher, SlurmLauncher, VolumeConfig
from configs.load import SHIPPED, load
from tests.cluster.launch.submissions import submission

SLURM = Slurm(SlurmLauncher(kind="slurm"))
SLURM_HANDLE = SlurmHandle(job=7, name="run-1", log=Path("run-1.log")).model_dump_json()
KUBERNETES_HANDLE = KubernetesHandle(namespace="default", name="run-1").model_dump_json()
HANGS = "exec sleep 60"
RUNNING_RAYJOB = '{"status": {"jobDeploymentStatus": "Running", "rayClusterName": "c", "jobId": "j"}}'


@pytest.fixture
def kubernetes(tmp_path) -> Kubernetes:
    """A launcher whose pods have the test's directory."""
    shipped = load(SHIPPED / "clusters" / "kubernetes.yaml", ClusterConfig).config.launcher
    assert isinstance(shipped, KubernetesLauncher)
    return Kubernetes(shipped.model_copy(update={"volumes": (VolumeConfig(claim="c", mount_path=str(tmp_path)),)}))


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Callable[..., None]:
    """Put programs, given as lines of /bin/sh, before all others, and limit the seconds that one may take."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

    def make(limit_seconds: float, **programs: str) -> None:
        for module in ("slurm", "kubernetes"):
            for limit in ("COMMAND_SECONDS", "SLOW_COMMAND_SECONDS"):
                monkeypatch.setattr(f"cluster.launch.{module}.{limit}", limit_seconds)
        for name, script in programs.items():
            (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (directory / name).chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("launcher", "handle"),
    [(SLURM, SLURM_HANDLE), (Kubernetes(KubernetesLauncher.model_construct(kind="kubernetes")), KUBERNETES_HANDLE)],
)
def test_the_status_of_a_driver_is_unknown_without_the_launchers_programs(
    launcher: Launcher, handle: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status = launcher.status(handle)
    assert status.state == "unknown" and "cannot be run on this machine" in status.detail


def test_a_slurm_that_hangs_is_told_in_a_sentence_within_the_limit(tmp_path, monkeypatch, fake):
    monkeypatch.chdir(tmp_path)
    fake(0.1, **dict.fromkeys(("sbatch", "squeue", "scontrol", "scancel", "sacct"), HANGS))
    with pytest.raises(StartUpError, match=r"controller does not answer .*scontrol did not end within"):
        SLURM.check()
    with pytest.raises(StartUpError, match=r"controller does not answer .*squeue did not end within"):
        SLURM.submit(submission(tmp_path))
    status = SLURM.status(SLURM_HANDLE)
    assert status.state == "unknown" and "scontrol did not end within" in status.detail
    fake(2, scontrol="echo JobState=RUNNING Reason=None ExitCode=0:0")
    for end in (SLURM.stop, SLURM.kill):
        with pytest.raises(StartUpError, match="Slurm does not end job 7: scancel did not end within"):
            end(SLURM_HANDLE)


def test_a_submission_during_which_sbatch_hangs_can_be_made_again(tmp_path, fake):
    fake(2, squeue="", sbatch=HANGS)
    with pytest.raises(StartUpError, match=r"controller does not answer .*sbatch did not end within"):
        SLURM.submit(submission(tmp_path))
    fake(10, sbatch="echo 'Requested node configuration is not available' >&2; exit 1")
    with pytest.raises(ConfigError, match="takes no such job: Requested node configuration is not available; mend"):
        SLURM.submit(submission(tmp_path))
    fake(10, sbatch="echo 8")
    handle = SLURM.submit(submission(tmp_path))
    assert SlurmHandle.model_validate_json(handle).job == 8
    fake(0.1, squeue=HANGS, sbatch=HANGS)
    assert SLURM.submit(submission(tmp_path)) == handle


def test_a_kubernetes_that_hangs_is_told_in_a_sentence_within_the_limit(tmp_path, kubernetes, fake):
    fake(0.1, kubectl=HANGS)
    with pytest.raises(StartUpError, match=r"no Kubernetes answers kubectl .*kubectl did not end within"):
        kubernetes.check()
    with pytest.raises(StartUpError, match=r"no Kubernetes answers kubectl .*kubectl did not end within"):
        kubernetes.submit(submission(tmp_path))
    status = kubernetes.status(KUBERNETES_HANDLE)
    assert status.state == "unknown" and "kubectl did not end within" in status.detail
    assert "did not end within" in kubernetes.last_output(KUBERNETES_HANDLE)
    with pytest.raises(StartUpError, match="does not delete RayJob run-1: kubectl did not end within"):
        kubernetes.kill(KUBERNETES_HANDLE)
    answers = f"*'get rayjob'*) echo '{RUNNING_RAYJOB}' ;; *'get pod'*) echo pod/head-0"
    fake(2, kubectl=f'case "$*" in {answers} ;; *) {HANGS} ;; esac')
    with pytest.raises(StartUpError, match="does not stop its job: kubectl did not end within"):
        kubernetes.stop(KUBERNETES_HANDLE)


def test_a_file_system_that_cannot_lock_is_told_in_a_sentence(tmp_path, monkeypatch):
    def refuse(file: object, kind: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match="the file system cannot lock"):
        start_once(tmp_path / "record.json", lambda: "a handle")
