import json
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.launch.kube_manifest import MAX_NAME, rayjob_name
from cluster.launch.kubernetes import Kubernetes
from cluster.launch.launcher import DriverStatus, Submission, launcher_for
from cluster.launch.shared import public_environment
from configs.base import ConfigError, StartUpError
from configs.cluster import ClusterConfig
from configs.launchers import KubernetesLauncher, VolumeConfig
from configs.load import SHIPPED, load
from tests.cluster.launch.submissions import submission

KUBECTL = """#!/bin/sh
# A kubectl that notes what it is asked, and answers with what the test has put into answer-VERB.
here=$(dirname "$0")
for word; do case $word in --*) ;; *) verb=$word; break ;; esac; done
printf '%s\\n' "$*" >>"$here/asked"
[ "$verb" != apply ] || cat >"$here/applied"
[ ! -e "$here/refusal-$verb" ] || { cat "$here/refusal-$verb" >&2; exit 1; }
case "$*" in
  *"get pod"*) echo pod/head-0 ;;
  api-resources*) echo rayclusters.ray.io; cat "$here/kinds" ;;
  *) cat "$here/answer-$verb" 2>/dev/null ;;
esac
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
    (directory / "kinds").write_text("rayjobs.ray.io\n")
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
    assert yaml.safe_load(manifest) == expected
    assert "sesame" not in manifest


def test_the_check_asks_for_no_right_beyond_the_namespace(shipped, kubectl):
    (kubectl / "refusal-get").write_text(
        'crds.apiextensions.k8s.io is forbidden: User "me" cannot get at the cluster scope'
    )
    launcher_for(shipped).check()


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
    (kubectl / "kinds").write_text("")
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
    spec = yaml.safe_load(Kubernetes(alone).render(submission(tmp_path)))["spec"]["rayClusterSpec"]
    assert spec["workerGroupSpecs"] == [] and spec["headGroupSpec"]["rayStartParams"] == {}


def unlike(shipped: ClusterConfig, pools: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the spec of the cluster with these pools in the cluster file, read as a file is."""
    told = shipped.launcher.model_dump() | {"num_workers": None} | changes
    cluster = ClusterConfig.model_validate({"launcher": told, "pools": pools})
    return yaml.safe_load(launcher_for(cluster).render(sent(cluster)))["spec"]["rayClusterSpec"]


MEMBERS = [
    {
        "accelerator": "H100",
        "num_nodes": 1,
        "kubernetes": {
            "cpus_per_worker": 64,
            "gpus_per_worker": 8,
            "node_selector": {"gpu": "h100"},
            "pod": {"spec": {"priorityClassName": "high", "containers": [{"env": [{"name": "A", "value": "h"}]}]}},
        },
    },
    {"accelerator": "A100", "num_nodes": 2, "labels": {"rack": "7"}, "kubernetes": {"node_selector": {"gpu": "a100"}}},
]


def test_each_kind_of_a_pool_has_a_group_of_workers(shipped):
    cluster = unlike(
        shipped,
        {"default": {"members": MEMBERS}, "Eval_1": {"device": "cpu", "num_nodes": 3, "kubernetes": {}}},
        node_selector={"zone": "b"},
        pod={"spec": {"priorityClassName": "low"}},
    )
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert list(groups) == ["default-1", "default-2", "eval-1-1"]
    numbers = {name: [group[f"{key}eplicas"] for key in ("r", "minR", "maxR")] for name, group in groups.items()}
    assert numbers == {"default-1": [1] * 3, "default-2": [2] * 3, "eval-1-1": [3] * 3}
    assert {name: group.get("labels") for name, group in groups.items()} == {
        "default-1": None,
        "default-2": {"rack": "7"},
        "eval-1-1": None,
    }
    assert all(group["rayStartParams"] == {} for group in groups.values())  # KubeRay refuses `labels` there
    specs = {name: group["template"]["spec"] for name, group in groups.items()}
    assert specs["default-1"]["nodeSelector"] == {"zone": "b", "gpu": "h100"}
    assert [spec["priorityClassName"] for spec in specs.values()] == ["high", "low", "low"]
    limits = [spec["containers"][0]["resources"]["limits"] for spec in specs.values()]
    assert limits[0] == {"cpu": "64", "memory": "32768Mi", "nvidia.com/gpu": "8"}
    assert limits[1] == limits[2] == {"cpu": "8", "memory": "32768Mi"}
    assert {"name": "A", "value": "h"} in specs["default-1"]["containers"][0]["env"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["headGroupSpec"]["template"]["spec"]["priorityClassName"] == "low"


def test_a_group_of_a_kind_is_overlaid_by_its_name(shipped):
    over = {"spec": {"rayClusterSpec": {"workerGroupSpecs": [{"groupName": "default-2", "maxReplicas": 9}]}}}
    groups = unlike(shipped, {"default": {"members": MEMBERS}}, rayjob=over)["workerGroupSpecs"]
    assert [group["maxReplicas"] for group in groups] == [1, 9]


def test_one_kind_is_the_group_workers_with_its_own_settings_and_number(shipped):
    pool = {"num_nodes": 5, "labels": {"rack": "7"}, "kubernetes": {"cpus_per_worker": 3}}
    (group,) = unlike(shipped, {"default": pool})["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"], group["labels"]) == ("workers", 5, {"rack": "7"})
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "3"


@pytest.mark.parametrize(
    ("second", "workers", "says"),
    [
        ({"kubernetes": {"node_selector": {"gpu": "h100"}}}, None, "same nodes for H100 and for A100; .*node_selector"),
        ({"num_nodes": None}, None, "pools.default: nothing says how many nodes its member 2 has"),
        ({}, 2, "launcher.num_workers is 2, and the pools ask for 3 nodes"),
    ],
)
def test_kinds_of_workers_that_cannot_be_asked_for_are_refused(shipped, second, workers, says):
    first = {"accelerator": "H100", "num_nodes": 1, "kubernetes": {"node_selector": {"gpu": "h100"}}}
    with pytest.raises(ValueError, match=says):
        unlike(shipped, {"default": {"members": [first, {**MEMBERS[1], **second}]}}, num_workers=workers)


def test_a_store_that_no_pod_has_is_refused(shipped, tmp_path):
    with pytest.raises(ConfigError, match="in no volume of the pods, which are mounted at /store; give a store there"):
        launcher_for(shipped).render(submission(tmp_path))


def overlaid(shipped: ClusterConfig, **changes: Any) -> dict[str, Any]:
    """Return the spec of the cluster with the user's mappings in the cluster file, read as a file is."""
    launcher = KubernetesLauncher.model_validate(shipped.launcher.model_dump() | changes)
    manifest = yaml.safe_load(Kubernetes(launcher).render(sent(shipped)))
    return {"manifest": manifest} | manifest["spec"]["rayClusterSpec"]


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


POD: dict[str, Any] = {
    "metadata": {"labels": {"team": "translators"}},
    "spec": {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "research",
        "hostNetwork": True,
        "serviceAccountName": "mine",
        "containers": [
            {
                "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
            },
            {"name": "ray-worker", "resources": {"limits": {"rdma/hca_a": 1}, "requests": {"cpu": "6"}}},
            {"name": "sidecar", "image": "logs"},
        ],
        "volumes": [{"name": "shared-memory", "emptyDir": {"sizeLimit": "64Gi"}}, {"name": "scratch", "emptyDir": {}}],
    },
}


def test_the_users_pod_is_merged_over_that_of_each_pod(shipped):
    plain, cluster = pods(overlaid(shipped)), pods(overlaid(shipped, pod=POD))
    for before, after in zip(plain, cluster, strict=True):
        assert after["metadata"] == POD["metadata"]
        for key in ("tolerations", "imagePullSecrets", "priorityClassName", "hostNetwork", "serviceAccountName"):
            assert after["spec"][key] == POD["spec"][key]
        ray, sidecar = after["spec"]["containers"]
        assert sidecar == {"name": "sidecar", "image": "logs"}
        assert ray["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
        was = before["spec"]["containers"][0]
        assert ray["env"] == [*was["env"], {"name": "NCCL_DEBUG", "value": "INFO"}]
        assert {key: ray[key] for key in ("name", "image", "envFrom", "volumeMounts")} == {
            key: was[key] for key in ("name", "image", "envFrom", "volumeMounts")
        }
        assert after["spec"]["volumes"] == [
            before["spec"]["volumes"][0],
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
            {"name": "scratch", "emptyDir": {}},
        ]
    head, worker = (pod["spec"]["containers"][0]["resources"] for pod in cluster)
    assert head == plain[0]["spec"]["containers"][0]["resources"]  # an RDMA device would keep the head from any node
    assert worker["limits"] == {"cpu": "8", "memory": "32768Mi", "rdma/hca_a": 1}
    assert worker["requests"] == {"cpu": "6", "memory": "32768Mi"}


def test_a_null_takes_away_and_the_rest_of_the_rayjob_can_be_set(shipped):
    pod = {"spec": {"terminationGracePeriodSeconds": None}}
    rayjob = {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
        "spec": {"rayClusterSpec": {"workerGroupSpecs": [{"groupName": "workers", "idleTimeoutSeconds": 60}]}},
    }
    cluster = overlaid(shipped, pod=pod, rayjob=rayjob)
    assert all("terminationGracePeriodSeconds" not in template["spec"] for template in pods(cluster))
    labels = cluster["manifest"]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/name": "concord", "kueue.x-k8s.io/queue-name": "gpus"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["idleTimeoutSeconds"], workers["replicas"]) == (60, 2)


def test_variables_and_volumes_have_one_source_and_plain_lists_are_replaced(shipped):
    ray = {
        "env": [{"name": "PYTHONPATH", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
        "command": ["a"],
        "envFrom": [{"secretRef": {"name": "more"}}],
    }
    spec = {
        "containers": [ray],
        "volumes": [{"name": "volume-0", "hostPath": {"path": "/data", "type": None}}],
        "affinity": {"nodeAffinity": None},
    }
    group = {"groupName": "workers", "template": {"spec": {"containers": [{"name": "ray-worker", "command": ["b"]}]}}}
    rayjob = {"spec": {"rayClusterSpec": {"workerGroupSpecs": [group]}}}
    head, worker = pods(overlaid(shipped, pod={"spec": spec}, rayjob=rayjob))
    for pod in (head, worker):
        assert {"name": "PYTHONPATH", "valueFrom": {"fieldRef": {"fieldPath": "x"}}} in pod["spec"]["containers"][0][
            "env"
        ]
        assert pod["spec"]["volumes"][0] == {"name": "volume-0", "hostPath": {"path": "/data"}}
        assert pod["spec"]["affinity"] == {}
        names = [source["secretRef"]["name"] for source in pod["spec"]["containers"][0]["envFrom"]]
        assert names == ["concord-secrets", "more"]
    assert (head["spec"]["containers"][0]["command"], worker["spec"]["containers"][0]["command"]) == (["a"], ["b"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"pod": {"spec": {"volumes": [{"name": "volume-0", "persistentVolumeClaim": "x"}]}}},
            r"launcher\.pod\.spec\.volumes\.volume-0\.persistentVolumeClaim must be a mapping",
        ),
        ({"pod": {"spec": {"terminationGracePeriodSeconds": [1]}}}, "PeriodSeconds must be a single value"),
        ({"rayjob": {"metadata": {"name": "mine"}}}, "launcher.rayjob would change metadata.name"),
        ({"rayjob": {"metadata": {"namespace": "mine"}}}, "launcher.rayjob would change metadata.namespace"),
        ({"rayjob": {"spec": None}}, "launcher.rayjob would change spec.entrypoint"),
        ({"rayjob": {"spec": {"rayClusterSpec": None}}}, "without the container 'ray-head'"),
        ({"rayjob": {"spec": {"rayClusterSpec": {"headGroupSpec": None}}}}, "without the container 'ray-head'"),
    ],
)
def test_settings_that_do_not_fit_a_rayjob_are_refused(shipped, changes, says):
    with pytest.raises(ConfigError, match=says):
        overlaid(shipped, **changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pod: {tolerations: []}", "unknown key 'tolerations'.*metadata.*spec"),
        ("pod: {spec: {containers: null}}", "containers must be a list"),
        ("pod: {spec: {containers: {image: x}}}", "containers must be a list"),
        ("pod: {spec: {containers: [x]}}", "each item of containers must be a mapping"),
        ("pod: {spec: {containers: [{env: {A: b}}]}}", "containers.env must be a list"),
        (
            "pod: {spec: {containers: [{env: [{value: b}]}]}}",
            "each item of containers.env must be a mapping with a 'name'",
        ),
        ("pod: {spec: {tolerations: {key: x}}}", "tolerations must be a list"),
        ("pod: {spec: {volumes: [{emptyDir: {}}]}}", "each item of volumes must be a mapping with a 'name'"),
        (
            "pod: {spec: {containers: [{env: [{name: WANDB_API_KEY, value: '0123456789'}]}]}}",
            "containers.env holds WANDB_API_KEY, a secret, which no file may: put it into the Secret",
        ),
        (
            "rayjob: {spec: {rayClusterSpec: {workerGroupSpecs: [{maxReplicas: 5}]}}}",
            "each item of spec.rayClusterSpec.workerGroupSpecs must be a mapping with a 'groupName'",
        ),
    ],
)
def test_a_mistake_in_the_users_settings_is_told_with_its_line(tmp_path, text, says):
    file = tmp_path / "mine.yaml"
    whole = (SHIPPED / "clusters" / "kubernetes.yaml").read_text()
    file.write_text(whole.replace("  num_workers: 2", f"  num_workers: 2\n  {text}"))
    with pytest.raises(ConfigError, match=rf"mine\.yaml:\d+: .*{says}"):
        load(file, ClusterConfig)


def test_a_label_may_be_called_as_a_list_is(shipped):
    labels = {"env": "prod", "command": "train", "ports": "none"}
    spec = {"nodeSelector": labels, "affinity": {"podAffinity": {"labelSelector": {"matchLabels": labels}}}}
    rayjob = {"metadata": {"annotations": labels}}
    cluster = overlaid(shipped, pod={"metadata": {"labels": labels}, "spec": spec}, rayjob=rayjob)
    assert all(pod["metadata"]["labels"] == pod["spec"]["nodeSelector"] == labels for pod in pods(cluster))


def test_a_secret_by_reference_is_no_secret_in_a_file(shipped):
    item = {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    head, _ = pods(overlaid(shipped, pod={"spec": {"containers": [{"env": [item]}]}}))
    assert item in head["spec"]["containers"][0]["env"]


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"))))
def test_no_value_becomes_anything_but_the_text_that_it_is(environment):
    shipped = load(SHIPPED / "clusters" / "kubernetes.yaml", ClusterConfig).config
    manifest = Kubernetes(shipped.launcher).render(replace(sent(shipped), environment=environment))
    (container,) = yaml.safe_load(manifest)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    found = {item["name"]: item["value"] for item in container["env"]}
    assert found == public_environment(replace(sent(shipped), environment=environment)) | {"PYTHONPATH": "/concord"}
