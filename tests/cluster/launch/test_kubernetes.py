import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from cluster.launch.kube_manifest import MAX_NAME, rayjob_name
from cluster.launch.kubernetes import Kubernetes
from cluster.launch.launcher import DriverStatus, Submission, launcher_for
from configs.base import ConfigError, StartUpError
from configs.cluster import ClusterConfig
from configs.launchers import VolumeConfig
from configs.load import SHIPPED, load
from tests.cluster.launch.submissions import submission

KUBECTL = """#!/bin/sh
# A kubectl that notes what it is asked, and answers with what the test has put into answer-VERB.
here=$(dirname "$0")
for word; do case $word in --*) ;; *) verb=$word; break ;; esac; done
printf '%s\\n' "$*" >>"$here/asked"
[ "$verb" != apply ] || cat >"$here/applied"
[ ! -e "$here/refusal-$verb" ] || { cat "$here/refusal-$verb" >&2; exit 1; }
case "$*" in *"get pod"*) echo pod/head-0 ;; *) cat "$here/answer-$verb" 2>/dev/null ;; esac
exit 0
"""


@pytest.fixture
def shipped() -> ClusterConfig:
    return load(SHIPPED / "clusters" / "kubernetes.yaml", ClusterConfig).config


@pytest.fixture
def kubectl(tmp_path, monkeypatch) -> Path:
    """The directory of the fake."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "kubectl").write_text(KUBECTL)
    (directory / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


def answer(kubectl: Path, **status: str) -> None:
    """What `kubectl get rayjob` says."""
    (kubectl / "answer-get").write_text(json.dumps({"kind": "RayJob", "status": status, "spec": {}}))


def sent(cluster: ClusterConfig) -> Submission:
    """The submission that rayjob.yaml shows."""
    return Submission(
        run="smoke",
        key="1a2b",
        number=1,
        command=("-m", "pipeline.cli", "drive", "/store/runs/smoke-1a2b"),
        code=Path("/concord"),
        directory=Path("/store/recipes"),
        log=Path("/store/runs/smoke-1a2b/driver.log"),
        environment={"HF_TOKEN": "sesame", "NCCL_SOCKET_IFNAME": "eth0", "RAY_AUTH_TOKEN_PATH": "/home/me/token"},
        cluster=cluster,
        grace_seconds=60,
    )


def test_the_manifest_is_the_one_that_was_read_against_the_api_reference(shipped):
    manifest = launcher_for(shipped).render(sent(shipped))
    expected = yaml.safe_load(Path(__file__).with_name("rayjob.yaml").read_text())
    expected["spec"]["rayClusterSpec"]["rayVersion"] = version("ray")
    assert json.loads(manifest) == expected
    assert "sesame" not in manifest


def test_submitting_applies_the_manifest_and_twice_is_the_same(shipped, kubectl):
    launcher = launcher_for(shipped)
    launcher.check()
    handle = launcher.submit(sent(shipped))
    assert json.loads(handle) == {"namespace": "default", "name": "smoke-1a2b-1"}
    assert (kubectl / "applied").read_text() == launcher.render(sent(shipped))
    assert launcher.submit(sent(shipped)) == handle
    assert "sesame" not in (kubectl / "asked").read_text()


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        ({}, "waiting", "New"),
        ({"jobDeploymentStatus": "Initializing"}, "waiting", "Initializing"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "jobId": "x"}, "running", "Running RUNNING"),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": ""}, "waiting", "Retrying"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "ended", "Complete SUCCEEDED"),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, "ended", "Failed DeadlineExceeded"),
    ],
)
def test_where_a_rayjob_is_follows_from_its_status(shipped, kubectl, status, state, detail):
    answer(kubectl, **status)
    handle = launcher_for(shipped).submit(sent(shipped))
    assert launcher_for(shipped).status(handle) == DriverStatus(state, detail)


def test_a_running_job_is_stopped_by_ray_on_the_head_so_that_it_saves(shipped, kubectl):
    answer(kubectl, jobDeploymentStatus="Running", jobStatus="RUNNING", jobId="smoke-x", rayClusterName="smoke-c")
    launcher = launcher_for(shipped)
    launcher.stop(launcher.submit(sent(shipped)))
    asked = (kubectl / "asked").read_text().splitlines()
    assert asked[-2].endswith("--selector=ray.io/cluster=smoke-c,ray.io/node-type=head --output=name")
    assert asked[-1].endswith("exec pod/head-0 --container=ray-head -- ray job stop --no-wait smoke-x")


@pytest.mark.parametrize(("step", "last"), [("Initializing", "delete rayjob smoke-1a2b-1"), ("Complete", "get rayjob")])
def test_a_job_that_waits_is_deleted_and_one_that_has_ended_left_alone(shipped, kubectl, step, last):
    answer(kubectl, jobDeploymentStatus=step)
    launcher = launcher_for(shipped)
    launcher.stop(launcher.submit(sent(shipped)))
    assert last in (kubectl / "asked").read_text().splitlines()[-1]


def test_what_kubernetes_refuses_is_passed_on_in_a_sentence(shipped, kubectl):
    (kubectl / "refusal-apply").write_text('some warning\nError: namespaces "default" is forbidden\n')
    with pytest.raises(ConfigError, match='namespaces "default" is forbidden; mend `launcher`'):
        launcher_for(shipped).submit(sent(shipped))


def test_a_silent_server_a_missing_operator_and_a_missing_kubectl_are_told_apart(shipped, kubectl, monkeypatch):
    (kubectl / "refusal-get").write_text('customresourcedefinitions "rayjobs.ray.io" not found')
    with pytest.raises(ConfigError, match="install the KubeRay operator"):
        launcher_for(shipped).check()
    (kubectl / "refusal-version").write_text("Unable to connect to the server")
    with pytest.raises(StartUpError, match="Unable to connect to the server"):
        launcher_for(shipped).check()
    monkeypatch.setenv("PATH", str(kubectl.parent))
    with pytest.raises(ConfigError, match="no `kubectl`"):
        launcher_for(shipped).check()


def test_an_rayjob_that_is_gone_is_unknown(shipped, kubectl):
    handle = launcher_for(shipped).submit(sent(shipped))
    (kubectl / "refusal-get").write_text('rayjobs.ray.io "smoke-1a2b-1" not found')
    assert launcher_for(shipped).status(handle) == DriverStatus("unknown", 'rayjobs.ray.io "smoke-1a2b-1" not found')


def test_names_fit_kubernetes_and_stay_apart():
    names = ["smoke-1", "Smoke-1", "smoke_1", "smoke.1", "1-smoke", "x" * 60 + "-1", "x" * 60 + "-2"]
    made = [rayjob_name(name) for name in names]
    assert made[0] == "smoke-1" and len(set(made)) == len(names)
    for name in made:
        assert len(name) <= MAX_NAME and name[0].isalpha() and name[-1].isalnum()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_without_workers_the_head_does_the_work(shipped, tmp_path):
    volume = VolumeConfig(claim="c", mount_path=str(tmp_path))
    alone = shipped.launcher.model_copy(update={"num_workers": 0, "volumes": (volume,)})
    spec = json.loads(Kubernetes(alone).render(submission(tmp_path)))["spec"]["rayClusterSpec"]
    assert spec["workerGroupSpecs"] == [] and spec["headGroupSpec"]["rayStartParams"] == {}


def test_a_store_that_no_pod_has_is_refused(shipped, tmp_path):
    with pytest.raises(ConfigError, match="in no volume of the pods, which are mounted at /store; give a store there"):
        launcher_for(shipped).render(submission(tmp_path))
