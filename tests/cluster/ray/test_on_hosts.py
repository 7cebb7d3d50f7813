"""Gangs on the hosts of one Ray cluster, which fail, come and go."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Host, hosts, needs_hosts, ray_head, ray_join, ray_stop, ray_token, ray_variables

pytestmark = needs_hosts
ROOT = Path(__file__).parents[3]
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Cluster:
    """A head without cores, and hosts that can join it."""

    head: Host
    others: list[Host]
    address: str
    token: Path
    directory: Path

    def have(self, *wanted: Host) -> None:
        """Make the cluster that of the head and these hosts, each with one core and its name as a label.

        A host that has joined for an earlier test stays: to start Ray on one takes seconds.
        """
        for host in self.others:
            if host in wanted and any("raylet/raylet" in args for args in host.processes().values()):
                continue
            ray_stop(host)
            if host in wanted:
                ray_join(host, self.address, self.token, num_cpus=1, labels={"zone": host.name})

    def start(self, out: Path, task: str, **pool: Any) -> subprocess.Popen[str]:
        """Start gang_driver.py on the head."""
        program = [sys.executable, str(ROOT / "tests/cluster/ray/gang_driver.py")]
        out.mkdir()
        return self.head.run(
            [*program, self.address, str(out), task, json.dumps({"cpus_per_rank": 1, **pool})],
            env={**ray_variables(self.token), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start three hosts, two of which can join."""
    directory = tmp_path_factory.mktemp("hosts")
    with hosts(directory, 3) as (head, *others):
        token = ray_token(directory)
        yield Cluster(head, others, ray_head(head, token, num_cpus=0), token, directory)


def wait_for(path: Path) -> str:
    """Return the text of a file, once there is some."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)
    return path.read_text()


def result_of(driver: subprocess.Popen[str]) -> Any:
    printed = driver.communicate(timeout=LIMIT_SECONDS)[0].splitlines()  # by Ray, too
    (line,) = [line for line in printed if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def test_ranks_go_on_elsewhere_when_their_host_is_gone(cluster):
    cluster.have(*cluster.others)
    out = cluster.directory / "gone"
    driver = cluster.start(out, "meet", num_ranks=1)
    name = wait_for(out / "start-0-rank-0")
    lost, left = sorted(cluster.others, key=lambda host: host.name != name)
    lost.power_off()
    assert result_of(driver) == [f"{left.name} eth0"]
    assert f'"host": "{lost.name}"' in (out / "nodes.jsonl").read_text()


def test_ranks_meet_over_the_network_and_only_on_the_pools_hosts(cluster):
    joined = cluster.others
    cluster.have(*joined)
    out = cluster.directory / "meeting"
    out_of_one = cluster.directory / "zone"
    driver = cluster.start(out, "meet", num_ranks=2)
    assert {wait_for(out / f"start-0-rank-{index}") for index in (0, 1)} == {host.name for host in joined}
    (out / "go on").touch()
    assert sorted(result_of(driver)) == [f"{host.name} eth0" for host in joined]
    driver = cluster.start(out_of_one, "meet", num_ranks=1, labels={"zone": joined[1].name})
    assert wait_for(out_of_one / "start-0-rank-0") == joined[1].name
    (out_of_one / "go on").touch()
    assert result_of(driver) == [f"{joined[1].name} eth0"]


def test_a_gang_grows_when_a_host_joins_and_shrinks_when_one_leaves(cluster):
    first, second = cluster.others
    cluster.have(first)
    out = cluster.directory / "elastic"
    driver = cluster.start(out, "come_and_go", min_ranks=1)
    assert wait_for(out / "size-0") == "1"
    cluster.have(first, second)
    assert wait_for(out / "size-1") == "2"
    second.kill("raylet/raylet")
    assert result_of(driver) == [1, 2, 1]


def test_what_the_cluster_cannot_give_is_told_at_once(cluster):
    kind, text = result_of(cluster.start(cluster.directory / "too many", "meet", num_ranks=9, start_timeout_seconds=99))
    assert kind == "StartUpError" and "9 ranks of 1 CPU cores" in text


def test_members_have_ranks_on_their_own_hosts_and_a_gang_goes_on_without_one_until_it_is_back(cluster):
    """The first member's host joins after the other's, so its rank is 0 from then on, and is lost again."""
    first, second = cluster.others
    cluster.have(first)
    out = cluster.directory / "members"
    machines = {"num_nodes": 1, "machines": {"cpus_per_node": 1, "memory_gib_per_node": 1}}
    members = [{"labels": {"zone": host.name}, **machines} for host in (second, first)]
    driver = cluster.start(out, "come_and_go", members=members, min_ranks=1)
    assert wait_for(out / "place-0-rank-0") == f"1 {first.name}"
    cluster.have(first, second)
    assert [wait_for(out / f"place-1-rank-{index}") for index in (0, 1)] == [f"0 {second.name}", f"1 {first.name}"]
    second.power_off()
    assert result_of(driver) == [1, 2, 1]
    assert wait_for(out / "place-2-rank-0") == f"1 {first.name}"
