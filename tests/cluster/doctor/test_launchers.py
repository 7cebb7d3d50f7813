"""The tools of launchers, by what fake ones say."""

import pytest

from cluster.doctor.launchers import launcher_findings
from configs.cluster import ClusterConfig
from tests.cluster.doctor.fakes import only_programs

SLURM = {
    "sbatch": "",
    "scontrol": "",
    "scancel": "",
    "squeue": "",
    "sinfo": "echo '2 idle cpu'; echo '1 mixed cpu'; echo '4 down* cpu'",
    "munge": "echo MUNGE:x:",
    "unmunge": "",
}


def findings(monkeypatch, directory, programs, **launcher):
    only_programs(monkeypatch, directory, programs)
    machines = ClusterConfig.model_validate({"launcher": launcher})
    return {finding.check: finding for finding in launcher_findings(machines)}


def test_a_slurm_that_has_the_nodes_is_fine(tmp_path, monkeypatch):
    found = findings(monkeypatch, tmp_path, SLURM, kind="slurm", num_nodes=3)
    assert [finding.level for finding in found.values()] == ["OK"]
    assert "3 nodes are up, 3 asked for" in found["Slurm"].seen


def test_a_slurm_that_answers_needs_no_munge_at_its_usual_socket(tmp_path, monkeypatch):
    programs = SLURM | {"munge": "echo 'Did you start munged?' >&2; exit 1"}
    found = findings(monkeypatch, tmp_path, programs, kind="slurm", num_nodes=3)
    assert [finding.level for finding in found.values()] == ["OK"]


@pytest.mark.parametrize(
    ("changed", "check", "words"),
    [
        ({"unmunge": "echo 'Invalid credential' >&2; exit 15", "sinfo": "exit 1"}, "munge", "Invalid credential"),
        ({"sinfo": "echo 'Unable to contact slurm controller' >&2; exit 1"}, "Slurm", "Unable to contact"),
        ({"sinfo": "echo '1 idle cpu'"}, "Slurm", "1 nodes are up, 3 are asked for"),
        ({"sinfo": ""}, "Slurm", "there is no partition gpu"),
    ],
)
def test_a_slurm_that_would_refuse_is_told(tmp_path, monkeypatch, changed, check, words):
    found = findings(monkeypatch, tmp_path, SLURM | changed, kind="slurm", num_nodes=3, partition="gpu")
    assert found[check].level == "FAIL"
    assert words in found[check].seen
    assert found[check].fix


@pytest.mark.parametrize(
    ("old", "said", "level"),
    [("2 idle", "2 nodes are up, 2 asked for", "OK"), ("1 idle", "1 nodes are up, 2 are asked for", "FAIL")],
)
def test_each_partition_of_unlike_nodes_is_looked_at(tmp_path, monkeypatch, old, said, level):
    asks = f'case "$*" in *"-p old"*) echo "{old} old" ;; *"-p new"*) echo "9 idle new" ;; esac'
    only_programs(monkeypatch, tmp_path, SLURM | {"sinfo": asks})
    kinds = [("H100", 4, {}), ("A100", 1, {"partition": "old"}), ("L40S", 1, {"partition": "old", "constraint": "l"})]
    members = [{"accelerator": name, "num_nodes": number, "slurm": slurm} for name, number, slurm in kinds]
    told = {"launcher": {"kind": "slurm", "partition": "new"}, "pools": {"default": {"members": members}}}
    found = [one for one in launcher_findings(ClusterConfig.model_validate(told)) if one.check == "Slurm"]
    assert [one.level for one in found] == ["OK", level]
    assert found[0].seen == "partition new: 9 nodes are up, 4 asked for"
    assert found[1].seen == f"partition old: {said}"


def test_a_launcher_whose_tools_are_not_here_fails(tmp_path, monkeypatch):
    found = findings(monkeypatch, tmp_path, {}, kind="slurm")
    assert found["launcher slurm"].level == "FAIL"
    assert found["launcher slurm"].fix


KUBECTL = """case "$1" in
  version) echo '{}' ;;
  api-resources) echo rayjobs.ray.io ;;
  auth) echo yes ;;
esac"""
VOLUMES = [{"claim": "c", "mount_path": "/store"}]


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        (("", ""), "OK", "RayJobs can be made in mine"),
        (("echo yes", "echo no; exit 1"), "FAIL", "no right to make RayJobs in mine"),
        (("echo yes", "echo 'error: the server was unable' >&2; exit 1"), "FAIL", "the server was unable"),
    ],
)
def test_a_right_to_make_rayjobs_is_asked_for_in_the_namespace(tmp_path, monkeypatch, changed, level, words):
    programs = {"kubectl": KUBECTL.replace(*changed) if changed[0] else KUBECTL}
    settings = {"kind": "kubernetes", "image": "i", "namespace": "mine", "volumes": VOLUMES}
    found = findings(monkeypatch, tmp_path, programs, **settings)
    assert (found["kubectl"].level, found["KubeRay"].level) == (level, "OK")
    assert words in found["kubectl"].seen


def test_a_kubernetes_without_kuberay_is_told(tmp_path, monkeypatch):
    programs = {"kubectl": KUBECTL.replace("echo rayjobs.ray.io", "echo rayclusters.ray.io")}
    (finding,) = findings(monkeypatch, tmp_path, programs, kind="kubernetes", image="i", volumes=VOLUMES).values()
    assert finding.level == "FAIL" and "install the KubeRay operator" in f"{finding.seen} {finding.fix}"
