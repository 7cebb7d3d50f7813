"""What the Ray executor does when a cluster has too little, and before a restart."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.machines import Node
from cluster.placement import place
from cluster.ray import arrivals
from cluster.ray import executor as executor_module
from cluster.ray.executor import RayExecutor
from configs.base import ConfigError, StartUpError
from configs.pools import KindConfig, MachinesConfig, PoolConfig

ROOT = Path(__file__).parents[3]
MACHINES = MachinesConfig(cpus_per_node=1, memory_gib_per_node=1)
THREE: dict[str, Any] = {"num_nodes": 3, "machines": MACHINES}


class Nodes(list[Node]):
    """Nodes, and what was asked of the autoscaler."""

    def __init__(self) -> None:
        self.requests: list[int] = []


@pytest.fixture
def cluster(monkeypatch) -> Nodes:
    """Replace the nodes of a Ray; one more joins each time that they are listed, of the last kind of the pool."""
    nodes = Nodes()

    def list_nodes(pool: PoolConfig) -> list[list[Node]]:
        nodes.append(Node(f"host{len(nodes)}", 1, 0, 2**30))
        return [[Node("first", 1, 0, 2**30)] for _ in pool.members[1:]] + [list(nodes)]

    monkeypatch.setattr(executor_module, "connect", lambda address: None)
    monkeypatch.setattr(arrivals, "nodes_by_kind", list_nodes)
    monkeypatch.setattr(arrivals, "request_nodes", lambda pools: nodes.requests.append(len(pools)))
    monkeypatch.setattr(arrivals, "describe_nodes", lambda nodes: "idle")
    monkeypatch.setattr(arrivals, "SECONDS_BETWEEN_POLLS", 0.0)
    return nodes


def executor(address: str = "head:6379", **settings) -> RayExecutor:
    return RayExecutor(PoolConfig(cpus_per_rank=1, **settings), address=address)


def test_a_cluster_that_will_have_more_nodes_is_waited_for(cluster):
    assert executor(num_ranks=3, **THREE).placement().num_ranks == 3
    assert len(cluster) == 3


def test_nodes_that_are_described_are_waited_for_where_the_number_of_ranks_is_left_to_them(cluster, capsys):
    """A driver may begin before all of its nodes have joined; with what is there it would train on a part of them."""
    one = executor(**THREE)
    assert one.placement().num_ranks == 3
    assert capsys.readouterr().err.count("1 of the pool's 3 nodes are there; waiting for the others") == 1
    assert cluster.requests == [1, 0]


def test_of_a_pool_with_members_those_whose_machines_are_away_are_waited_for(cluster, capsys):
    members = (KindConfig(labels={"kind": "a"}, num_ranks=1), KindConfig(labels={"kind": "b"}, **THREE))
    placement = executor(members=members).placement()
    assert (placement.num_ranks, [member.num_ranks for member in placement.members]) == (4, [1, 3])
    assert "1 of the pool's 3 nodes of member 2 are there; waiting for the others" in capsys.readouterr().err
    assert cluster.requests == [2, 0]  # both kinds: what is asked for is what the cluster is to have in all
    assert placement.found.startswith("member 1: 1 rank on the CPUs of 1 node with 1 cores (no GPU was found); member")


def test_machines_that_two_members_will_have_are_not_the_same_ones(cluster, monkeypatch):
    """Of each member one of two nodes is there; with the others, of one core each, all four ranks fit."""
    there = [[Node("a", 1, 0, 2**30)], [Node("b", 1, 0, 2**30)]]
    monkeypatch.setattr(arrivals, "nodes_by_kind", lambda pool: there if len(there[0]) == 2 else grow(there))
    members = tuple(KindConfig(labels={"kind": kind}, num_ranks=2, num_nodes=2, machines=MACHINES) for kind in "ab")
    assert executor(members=members).placement().num_ranks == 4


def grow(nodes: list[list[Node]]) -> list[list[Node]]:
    """Return the nodes as they are, and have one more of each kind for the next time."""
    before = [list(own) for own in nodes]
    for own in nodes:
        own.append(Node(f"{own[0].host}2", 1, 0, 2**30))
    return before


def test_an_elastic_pool_with_members_begins_with_those_that_are_there(cluster):
    away = KindConfig(labels={"kind": "a"}, **THREE)
    placement = executor(members=(KindConfig(num_ranks=1), away), min_ranks=2).placement()
    assert [member.num_ranks for member in placement.members] == [1, 1]
    assert len(cluster) == 1 and placement.found.endswith("MISSING of the pool's machines: 2 of 3 nodes")


def test_after_the_wait_training_begins_with_the_nodes_there_are_and_says_so(cluster):
    placement = executor(**THREE, start_timeout_seconds=1e-9).placement()
    assert placement.num_ranks == 1
    assert placement.found.endswith("MISSING of the pool's machines: 2 of 3 nodes")


@pytest.mark.parametrize("settings", [{"num_ranks": 3}, {"num_ranks": 4, **THREE}])
def test_one_that_will_never_have_enough_is_told_at_once(cluster, settings):
    with pytest.raises(StartUpError, match=r"ranks of 1 CPU cores, but there are 1 node .*its nodes that live: idle"):
        executor(**settings).placement()
    assert len(cluster) == 1


def test_the_wait_has_an_end(cluster):
    with pytest.raises(StartUpError):
        executor(num_ranks=3, **THREE, start_timeout_seconds=1e-9).placement()


def test_this_machine_is_a_mistake_of_the_cluster_file(cluster):
    with pytest.raises(ConfigError):
        executor("local", num_ranks=3).placement()


def test_what_is_settled_by_then_is_kept(cluster):
    one = executor(num_ranks=1)
    assert one.used_placement is None and one.placement() is one.used_placement


def test_a_restart_waits_longer_each_time_that_a_host_fails(monkeypatch):
    waits = []
    monkeypatch.setattr(executor_module.RayWaiter, "sleep", lambda self, seconds: waits.append(seconds))
    for num_losses in range(1, 9):
        executor_module._back_off("training", num_losses)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize(("num_gpus", "need"), [(0, {"CPU": 1.0, "GPU": 1.0}), (8, {"CPU": 4.0})])
def test_an_item_that_no_node_holds_any_more_is_waited_for_a_while_only(monkeypatch, num_gpus, need):
    """The node with the GPUs has gone, and others of the pool live on: Ray would keep the item for ever."""
    monkeypatch.setattr(executor_module, "nodes_by_kind", lambda pool: [[Node("left", 2, num_gpus, 2**30)]])
    monkeypatch.setattr(executor_module, "live_nodes", list)
    monkeypatch.setattr(executor_module, "describe_nodes", lambda nodes: "left with 2 cores")
    monkeypatch.setattr(executor_module, "SECONDS_BETWEEN_CHECKS", 0.0)
    monkeypatch.setattr(executor_module.RayWaiter, "wait", lambda self, references: ([], references))
    one = executor(device="cpu", start_timeout_seconds=0.05)
    placement = place(PoolConfig(start_timeout_seconds=0.05), [Node("any", 8, 0, 2**30)], wandb=None)
    with pytest.raises(StartUpError, match=r"scoring: no node of the pool that holds . CPU core"):
        one._wait_for_item(None, placement, need, label="scoring")


FAILING = """
from cluster.ray.executor import RayExecutor
from configs.base import UserError
from configs.pools import PoolConfig

def fail(number):
    raise UserError(f"item {number} is wrong")

try:
    list(RayExecutor(PoolConfig(cpus_per_task=1), address="local").map(fail, range(8), label="failing"))
except UserError as error:
    print(error)
"""


def test_of_items_that_fail_at_once_the_first_is_told_and_nothing_else():
    """Ray itself prints the tracebacks of those that nobody asks for."""
    command = [sys.executable, "-c", FAILING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("item 0 is wrong\n", "")
