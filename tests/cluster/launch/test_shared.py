"""What launchers share, on a machine without their programs."""

from pathlib import Path

import pytest

from cluster.launch.kubernetes import Kubernetes, KubernetesHandle
from cluster.launch.launcher import Launcher
from cluster.launch.shared import CommandFailed, call
from cluster.launch.slurm import Slurm, SlurmHandle
from configs.launchers import KubernetesLauncher, SlurmLauncher


def test_a_command_that_is_not_there_has_failed():
    with pytest.raises(CommandFailed, match="`no-such-program` cannot be run on this machine"):
        call(["no-such-program"])


@pytest.mark.parametrize(
    ("launcher", "handle"),
    [
        (Slurm(SlurmLauncher(kind="slurm")), SlurmHandle(job=7, name="run-1", log=Path("run-1.log"))),
        (
            Kubernetes(KubernetesLauncher.model_construct(kind="kubernetes")),
            KubernetesHandle(namespace="default", name="run-1"),
        ),
    ],
)
def test_a_driver_is_looked_for_without_the_launchers_programs(
    launcher: Launcher, handle: SlurmHandle | KubernetesHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    seen = launcher.look(handle.model_dump_json())
    assert seen.state == "unknown" and "cannot be run on this machine" in seen.detail
