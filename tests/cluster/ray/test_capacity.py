"""How many ranks a gang may have, and on which nodes."""

import time

import pytest

from cluster.machines import Node
from cluster.placement import place
from cluster.ray import capacity, quarantine
from cluster.ray import nodes as ray_nodes
from cluster.ray.capacity import Bounds, Capacity, ResizeCheck
from cluster.ray.quarantine import NodeFailures
from configs.pools import PoolConfig


@pytest.mark.parametrize(
    ("bounds", "num_slots", "num_free", "before", "waited", "num_ranks"),
    [
        (Bounds(2, 2), 2, 0, 2, 0, 2),  # busy slots are waited for in Ray's queue
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
def test_the_number_follows_from_what_there_is_and_how_long_was_waited(
    bounds, num_slots, num_free, before, waited, num_ranks
):
    found = bounds.choose_num_ranks(num_slots=num_slots, num_free=num_free, before=before, waited_seconds=waited)
    assert found == num_ranks


@pytest.fixture
def cluster(monkeypatch) -> list[Node]:
    """Replace Ray's nodes by three that answer and are idle."""
    nodes = [Node(f"host{n}", 1, 0, 2**30, id=f"id{n}", address=f"10.0.0.{n}:7") for n in range(1, 4)]
    monkeypatch.setattr(ray_nodes, "live_nodes", lambda: nodes)
    monkeypatch.setattr(capacity, "live_nodes", lambda: nodes)
    monkeypatch.setattr(capacity, "driver_node", lambda: nodes[0])
    monkeypatch.setattr(capacity, "unreachable", lambda addresses: frozenset())
    monkeypatch.setattr(capacity, "free_resources", list)
    return nodes


def capacity_of(*, avoid: frozenset[str] = frozenset(), failures: NodeFailures | None = None, **settings) -> Capacity:
    pool = PoolConfig(cpus_per_rank=1, **settings)
    placement = place(pool, [Node("any", 8, 0, 2**30)], wandb=None)
    return Capacity(pool, placement, failures=failures or NodeFailures(None), avoid=avoid, label="training")


def hosts(nodes: list[Node]) -> list[str]:
    return [node.host for node in nodes]


def test_a_host_that_is_avoided_is_left_out_by_name_or_address(cluster, capsys):
    one = capacity_of(num_ranks=1, avoid=frozenset({"host1", "10.0.0.3"}))
    nodes = one.usable_nodes()
    assert hosts(nodes) == ["host2"]
    assert one.selector(nodes) == {"ray.io/node-id": "!in(id1, id3)"}
    one.usable_nodes()
    assert capsys.readouterr().err.count("leaving out host1, host3, which failed before") == 1


def test_a_host_that_failed_twice_is_used_where_the_rest_is_too_little(cluster, monkeypatch, capsys):
    failures = NodeFailures(None)
    small, large = (capacity_of(num_ranks=number, failures=failures) for number in (2, 3))
    small.note_failure("host2", reason="killed")
    assert len(small.usable_nodes()) == 3
    now = time.time() + 60
    monkeypatch.setattr(quarantine.time, "time", lambda: now)
    small.note_failure("host2", reason="killed again")
    assert hosts(small.usable_nodes()) == ["host1", "host3"]
    assert len(large.usable_nodes()) == 3
    assert "host2, are used" in capsys.readouterr().err


def test_a_host_that_does_not_answer_is_not_there_except_ones_own(cluster, monkeypatch):
    monkeypatch.setattr(capacity, "unreachable", frozenset)
    assert hosts(capacity_of(num_ranks=1).usable_nodes()) == ["host1"]


def test_labels_and_kind_of_gpu_are_asked_of_ray(cluster):
    assert ray_nodes.label_selector(PoolConfig(labels={"zone": "a"}, accelerator="H100"), avoided=[]) == {
        "zone": "a",
        "ray.io/accelerator-type": "H100",
    }


def test_a_resize_is_asked_for_once_and_not_soon_after_a_start(cluster, monkeypatch):
    now, asked = 0.0, []
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    check = ResizeCheck(capacity_of(min_ranks=1), ["host1", "host2"], resize=lambda: asked.append(now))
    check.poll()
    now = 59.0
    check.poll()
    assert asked == []
    now = 61.0
    check.poll()
    now = 75.0
    check.poll()
    assert asked == [61.0]


def test_no_resize_is_asked_for_when_the_gang_has_all_it_may_have(cluster, monkeypatch):
    now, asked = 0.0, []
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    check = ResizeCheck(capacity_of(min_ranks=1, num_ranks=2), ["host1", "host2"], resize=lambda: asked.append(now))
    now = 100.0
    check.poll()
    assert asked == []


def test_a_slow_host_is_left_out_where_others_are_free_for_its_ranks(cluster, monkeypatch, capsys):
    now, asked, slow = 100.0, [], "host2"
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    one = capacity_of(num_ranks=2)
    check = ResizeCheck(one, ["host1", "host2"], resize=lambda: asked.append(now), slow_host=lambda: slow)
    monkeypatch.setattr(capacity, "free_resources", lambda nodes: [])
    now = 161.0
    check.poll()
    assert asked == [] and len(one.usable_nodes()) == 3  # nobody else is free
    monkeypatch.setattr(capacity, "free_resources", lambda nodes: [node for node in nodes if node.host == "host3"])
    now = 172.0
    check.poll()
    assert asked == [172.0]
    assert hosts(one.usable_nodes()) == ["host1", "host3"]  # at once: it did not take two failures
    assert "host2 keeps the other ranks waiting" in capsys.readouterr().err
    now = 183.0
    check.poll()
    assert asked == [172.0]
