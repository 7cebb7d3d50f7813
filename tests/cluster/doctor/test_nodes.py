"""The doctor on the nodes of a Ray."""

import pytest

import cluster.doctor.address
from cluster.doctor.address import address_finding, refuse_open_ray
from cluster.doctor.nodes import Probes, examine_nodes, unique_names
from cluster.doctor.software import installed_version
from cluster.host.network import free_port
from cluster.machines import Node
from configs.base import ConfigError
from configs.cluster import ClusterConfig


@pytest.fixture
def address(ray_cluster) -> str:
    """The address of the session's Ray."""
    import ray

    return ray.get_runtime_context().gcs_address


def test_nodes_of_a_pool_examine_themselves_and_agree(address, tmp_path):
    report = examine_nodes(ClusterConfig(), address=address, store=tmp_path, quick=True)
    ours = {finding.check: finding for finding in report.findings if finding.host}
    assert {"store shared", "store permissions", "open files", "same versions", "clock"} <= ours.keys()
    assert ours["same versions"].level == ours["clock"].level == ours["store shared"].level == "OK"
    assert len(report.versions) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_pool_without_nodes_fails_as_a_whole(address, tmp_path):
    machines = ClusterConfig.model_validate({"pools": {"far": {"labels": {"place": "elsewhere"}}}})
    (finding,) = examine_nodes(machines, address=address, store=tmp_path, quick=True).findings
    assert (finding.check, finding.level, finding.host) == ("pool far", "FAIL", "")


def test_a_node_that_fails_is_named(address, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    monkeypatch.setattr("cluster.doctor.nodes.installed_versions", lambda: {"python": "2.7"})
    report = examine_nodes(ClusterConfig(), address=address, store=blocked, quick=True)
    assert len(report.failing_hosts) == 1


def test_a_ray_is_known_by_its_address_and_its_token(address, monkeypatch):
    assert address_finding(address).level == "OK"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    finding = address_finding(address)
    assert finding.level == "FAIL"
    assert "does not take this token" in finding.seen


@pytest.fixture
def asked(monkeypatch) -> list[dict[str, str] | None]:
    """Make every address that of an open Ray of our version; list the authentication of each query."""
    questions: list[dict[str, str] | None] = []

    def query(address, authentication=None):
        questions.append(authentication)
        return {"answer": "yes", "ray": installed_version("ray"), "python": "3"}

    monkeypatch.setattr(cluster.doctor.address, "answers", lambda address: True)
    monkeypatch.setattr(cluster.doctor.address, "_query_ray", query)
    return questions


def test_an_open_ray_on_another_machine_is_refused_unless_allowed(asked):
    finding = address_finding("10.0.0.9:6379")
    assert (finding.level, "wants no token" in finding.seen) == ("FAIL", True)
    with pytest.raises(ConfigError, match=r"wants no token.*`allow_no_token: true`"):
        refuse_open_ray(ClusterConfig(ray_address="10.0.0.9:6379"))
    assert asked == [{"RAY_AUTH_MODE": "disabled"}] * 2
    assert address_finding("10.0.0.9:6379", allow_no_token=True).level == "WARN"
    assert address_finding("127.0.0.1:6379").level == "OK"
    for machines in (
        ClusterConfig(ray_address="10.0.0.9:6379", allow_no_token=True),
        ClusterConfig(ray_address="localhost:6379"),
        ClusterConfig(ray_address="[::1]:6379"),
        ClusterConfig(executor="inline", ray_address="10.0.0.9:6379"),
        ClusterConfig(),
    ):
        refuse_open_ray(machines)


def test_a_ray_that_wants_a_token_is_not_open(address):
    refuse_open_ray(ClusterConfig(ray_address=address))


def test_where_nothing_listens_there_is_no_ray():
    assert "nothing answers" in address_finding(f"127.0.0.1:{free_port()}").seen


def test_nodes_of_one_name_are_told_apart_by_address():
    def node(host: str, address: str) -> Node:
        return Node(host=host, num_cpus=1, num_gpus=0, memory_bytes=1, id=address, address=address)

    nodes = [node("a", "10.0.0.1:1"), node("a", "10.0.0.2:1"), node("b", "10.0.0.3:1")]
    assert list(unique_names(nodes).values()) == ["10.0.0.1", "10.0.0.2", "b"]
    two = [node("a", "10.0.0.1:1"), node("a", "10.0.0.1:2")]
    assert list(unique_names(two).values()) == ["10.0.0.1:1", "10.0.0.1:2"]
    assert [one.is_in({"10.0.0.1:2"}) for one in two] == [False, True]


def test_the_quick_check_takes_no_gpu(monkeypatch):
    taken: list[int] = []
    monkeypatch.setattr(Probes, "_start", staticmethod(lambda node, *, num_gpus: taken.append(num_gpus)))
    probes = Probes([Node("a", 8, 8, 2**30, id="a"), Node("b", 8, 8, 2**30, id="b")])
    assert probes.measure_speeds([]) == {}
    assert taken == [0, 0]


@pytest.mark.parametrize(
    ("pool", "level", "said"),
    [
        ({"device": "gpu"}, "FAIL", "and no GPU, which it wants"),
        ({"device": "cpu"}, "OK", "1 nodes, "),
        (
            {"num_nodes": 3, "machines": {"cpus_per_node": 1, "memory_gib_per_node": 1}},
            "WARN",
            "missing of its machines: 2 of 3 nodes",
        ),
    ],
)
def test_what_a_pool_wants_and_its_nodes_lack_is_told(address, tmp_path, pool, level, said):
    machines = ClusterConfig.model_validate({"pools": {"default": pool}})
    report = examine_nodes(machines, address=address, store=tmp_path, quick=True)
    (finding,) = [finding for finding in report.findings if finding.check == "pool default"]
    assert finding.level == level and said in finding.seen
    (gpus,) = [finding for finding in report.findings if finding.check == "GPUs"]
    assert gpus.level == ("FAIL" if level == "FAIL" else "OK")
