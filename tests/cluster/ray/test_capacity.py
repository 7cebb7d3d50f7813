"""How many ranks a gang has."""

import time

import pytest

from cluster.machines import Node
from cluster.placement import place
from cluster.ray import capacity as rooms
from cluster.ray import nodes as ray_nodes
from cluster.ray import quarantine
from cluster.ray.capacity import Bounds, Growth, Room
from cluster.ray.quarantine import NodeFailures
from configs.pools import PoolConfig


@pytest.mark.parametrize(
    ("bounds", "room", "free", "before", "waited", "number"),
    [
        (Bounds(2, 2), 2, 0, 2, 0, 2),  # busy places are waited for in Ray's queue
        (Bounds(2, 2), 1, 1, 2, 99, 0),
        (Bounds(1, 4), 3, 3, 0, 0, 3),
        (Bounds(1, 4), 3, 3, 4, 4.9, 0),  # another may come
        (Bounds(1, 4), 3, 3, 4, 5.1, 3),
        (Bounds(1, 4), 9, 9, 3, 0, 4),
        (Bounds(1, None), 9, 9, 3, 0, 9),
        (Bounds(1, None), 9, 2, 3, 6, 2),
        (Bounds(2, None), 9, 1, 3, 6, 0),
        (Bounds(2, None), 1, 1, 0, 0, 0),
    ],
)
def test_the_number_follows_from_what_there_is_and_how_long_was_waited(bounds, room, free, before, waited, number):
    assert bounds.number(room=room, free=free, before=before, waited_seconds=waited) == number


@pytest.fixture
def cluster(monkeypatch) -> list[Node]:
    """Nodes that the door to Ray gives; all answer and are idle."""
    nodes = [Node(f"host{n}", 1, 0, 2**30, id=f"id{n}", address=f"10.0.0.{n}:7") for n in range(1, 4)]
    monkeypatch.setattr(ray_nodes, "live_nodes", lambda: nodes)
    monkeypatch.setattr(rooms, "live_nodes", lambda: nodes)
    monkeypatch.setattr(rooms, "home", lambda: nodes[0])
    monkeypatch.setattr(rooms, "unreachable", lambda addresses: frozenset())
    monkeypatch.setattr(rooms, "free_of", list)
    return nodes


def room(*, avoid: frozenset[str] = frozenset(), failures: NodeFailures | None = None, **settings) -> Room:
    pool = PoolConfig(cpus_per_rank=1, **settings)
    placement = place(pool, [Node("any", 8, 0, 2**30)], wandb=None)
    return Room(pool, placement, failures=failures or NodeFailures(None), avoid=avoid, label="training")


def hosts(nodes: list[Node]) -> list[str]:
    return [node.host for node in nodes]


def test_a_host_that_is_avoided_is_left_out_by_name_or_address(cluster, capsys):
    one = room(num_ranks=1, avoid=frozenset({"host1", "10.0.0.3"}))
    nodes = one.nodes()
    assert hosts(nodes) == ["host2"]
    assert one.selector(nodes) == {"ray.io/node-id": "!in(id1, id3)"}
    one.nodes()
    assert capsys.readouterr().err.count("leaving out host1, host3, which failed before") == 1


def test_a_host_that_failed_twice_is_used_where_the_rest_is_too_little(cluster, monkeypatch, capsys):
    failures = NodeFailures(None)
    small, large = (room(num_ranks=number, failures=failures) for number in (2, 3))
    small.failed("host2", reason="killed")
    assert len(small.nodes()) == 3
    now = time.time() + 60
    monkeypatch.setattr(quarantine.time, "time", lambda: now)
    small.failed("host2", reason="killed again")
    assert hosts(small.nodes()) == ["host1", "host3"]
    assert len(large.nodes()) == 3
    assert "host2, are used" in capsys.readouterr().err


def test_a_host_that_does_not_answer_is_not_there_except_ones_own(cluster, monkeypatch):
    monkeypatch.setattr(rooms, "unreachable", frozenset)
    assert hosts(room(num_ranks=1).nodes()) == ["host1"]


def test_labels_and_kind_of_gpu_are_asked_of_ray(cluster):
    assert ray_nodes.selector(PoolConfig(labels={"zone": "a"}, accelerator="H100"), []) == {
        "zone": "a",
        "ray.io/accelerator-type": "H100",
    }


def test_growth_asks_once_and_not_soon_after_a_start(cluster, monkeypatch):
    now, asked = 0.0, []
    monkeypatch.setattr(rooms.time, "monotonic", lambda: now)
    growth = Growth(room(min_ranks=1), number=2, resize=lambda: asked.append(now))
    growth.look()
    now = 59.0
    growth.look()
    assert asked == []
    now = 61.0
    growth.look()
    now = 75.0
    growth.look()
    assert asked == [61.0]


def test_growth_asks_for_nothing_when_the_gang_has_all_it_may_have(cluster, monkeypatch):
    now, asked = 0.0, []
    monkeypatch.setattr(rooms.time, "monotonic", lambda: now)
    growth = Growth(room(min_ranks=1, num_ranks=2), number=2, resize=lambda: asked.append(now))
    now = 100.0
    growth.look()
    assert asked == []
