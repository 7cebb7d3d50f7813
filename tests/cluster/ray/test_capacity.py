"""How many ranks of each member a gang may have, and on which nodes."""

import time
from dataclasses import replace

import pytest

from cluster.machines import Node
from cluster.members import distinct_nodes, place_pool
from cluster.placement import place
from cluster.ray import capacity, quarantine
from cluster.ray import nodes as ray_nodes
from cluster.ray.capacity import Bounds, Capacity, ResizeCheck
from cluster.ray.quarantine import NodeFailures
from configs.pools import KindConfig, PoolConfig


@pytest.mark.parametrize(
    ("bounds", "slots", "free", "before", "waited", "counts"),
    [
        (Bounds(2, (2,)), (2,), (0,), (2,), 0, (2,)),  # busy slots are waited for in Ray's queue
        (Bounds(2, (2,)), (1,), (1,), (2,), 99, (0,)),
        (Bounds(1, (4,)), (3,), (3,), (), 0, (3,)),
        (Bounds(1, (4,)), (3,), (3,), (4,), 4.9, (0,)),  # another may come
        (Bounds(1, (4,)), (3,), (3,), (4,), 5.1, (3,)),
        (Bounds(1, (4,)), (4,), (4,), (3,), 0, (4,)),
        (Bounds(1, (None,)), (9,), (9,), (3,), 0, (9,)),
        (Bounds(1, (None,)), (9,), (2,), (3,), 6, (2,)),
        (Bounds(2, (None,)), (9,), (1,), (3,), 6, (0,)),
        (Bounds(2, (None,)), (1,), (1,), (), 0, (0,)),
        (Bounds(3, (1, 2)), (1, 2), (0, 0), (), 0, (1, 2)),
        (Bounds(3, (1, 2)), (1, 1), (1, 1), (1, 2), 99, (0, 0)),
        (Bounds(1, (1, 2)), (1, 0), (1, 0), (1, 2), 4.9, (0, 0)),  # the other member may come back
        (Bounds(1, (1, 2)), (1, 0), (1, 0), (1, 2), 5.1, (1, 0)),
        (Bounds(1, (2, 2)), (2, 1), (2, 1), (1, 2), 4.9, (0, 0)),  # of one more, of the other fewer
        (Bounds(2, (1, 2)), (1, 0), (1, 0), (1, 2), 5.1, (0, 0)),
        (Bounds(1, (0, None)), (0, 2), (0, 2), (), 0, (0, 2)),
    ],
)
def test_the_numbers_follow_from_what_there_is_and_how_long_was_waited(bounds, slots, free, before, waited, counts):
    assert bounds.choose_counts(slots=slots, free=free, before=before, waited_seconds=waited) == counts


@pytest.fixture
def cluster(monkeypatch) -> list[Node]:
    """Replace Ray's nodes by three that answer and are idle; the first two are of one kind, the third of another."""
    nodes = [
        Node(f"host{n}", 1, 0, 2**30, labels={"kind": "aab"[n - 1]}, id=f"id{n}", address=f"10.0.0.{n}:7")
        for n in range(1, 4)
    ]
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


def members_of(*kinds: str, avoid: frozenset[str] = frozenset(), out: str = "", **settings) -> Capacity:
    """Return the capacity of a pool with a member for each kind, laid out on a machine of each; `out` is left out."""
    pool = PoolConfig(cpus_per_rank=1, members=tuple(KindConfig(labels={"kind": kind}) for kind in kinds), **settings)
    there = [[Node(f"{kind}{n}", 1, 0, 2**30) for n in range(kind.count("a") + 1)] for kind in kinds]
    placement = place_pool(pool, there, wandb=None)
    members = tuple(
        replace(one, left_out="too slow" if kind == out else "")
        for one, kind in zip(placement.members, kinds, strict=True)
    )
    placement = replace(placement, members=members)
    return Capacity(pool, placement, failures=NodeFailures(None), avoid=avoid, label="training")


def hosts(nodes: list[list[Node]]) -> list[str]:
    return [node.host for node in distinct_nodes(nodes)]


def test_a_host_that_is_avoided_is_left_out_by_name_or_address(cluster, capsys):
    one = capacity_of(num_ranks=1, avoid=frozenset({"host1", "10.0.0.3"}))
    nodes = one.usable_nodes()
    assert hosts(nodes) == ["host2"]
    assert one.selectors(nodes, (1,)) == [{"ray.io/node-id": "!in(id1, id3)"}]
    one.usable_nodes()
    assert capsys.readouterr().err.count("leaving out host1, host3, which failed before") == 1


def test_a_host_that_failed_twice_is_used_where_the_rest_is_too_little(cluster, monkeypatch, capsys):
    failures = NodeFailures(None)
    small, large = (capacity_of(num_ranks=number, failures=failures) for number in (2, 3))
    small.note_failure("host2", reason="killed")
    assert len(hosts(small.usable_nodes())) == 3
    now = time.time() + 60
    monkeypatch.setattr(quarantine.time, "time", lambda: now)
    small.note_failure("host2", reason="killed again")
    assert hosts(small.usable_nodes()) == ["host1", "host3"]
    assert len(hosts(large.usable_nodes())) == 3
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
    check = ResizeCheck(capacity_of(min_ranks=1), ["host1", "host2"], [2], resize=lambda: asked.append(now))
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
    check = ResizeCheck(
        capacity_of(min_ranks=1, num_ranks=2), ["host1", "host2"], [2], resize=lambda: asked.append(now)
    )
    now = 100.0
    check.poll()
    assert asked == []


def test_a_slow_host_is_left_out_where_others_are_free_for_its_ranks(cluster, monkeypatch, capsys):
    now, asked, slow = 100.0, [], "host2"
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    one = capacity_of(num_ranks=2)
    check = ResizeCheck(one, ["host1", "host2"], [2], resize=lambda: asked.append(now), slow_host=lambda: slow)
    monkeypatch.setattr(capacity, "free_resources", lambda nodes: [])
    now = 161.0
    check.poll()
    assert asked == [] and len(hosts(one.usable_nodes())) == 3  # nobody else is free
    monkeypatch.setattr(capacity, "free_resources", lambda nodes: [node for node in nodes if node.host == "host3"])
    now = 172.0
    check.poll()
    assert asked == [172.0]
    assert hosts(one.usable_nodes()) == ["host1", "host3"]  # at once: it did not take two failures
    assert "host2 keeps the other ranks waiting" in capsys.readouterr().err
    now = 183.0
    check.poll()
    assert asked == [172.0]


def counts_now(one: Capacity, *, before: tuple[int, ...] = (), waited: float = 0.0) -> tuple[int, ...]:
    return one.choose_counts(one.usable_nodes(), before=before, waited_seconds=waited)


def test_each_member_has_its_own_ranks_on_its_own_nodes(cluster):
    one = members_of("a", "b")
    assert (one.bounds, counts_now(one)) == (Bounds(3, (2, 1)), (2, 1))
    assert one.selectors(one.usable_nodes(), (2, 1)) == [{"kind": "a"}, {"kind": "a"}, {"kind": "b"}]
    avoiding = members_of("a", "b", min_ranks=1, avoid=frozenset({"host2"}))
    selectors = avoiding.selectors(avoiding.usable_nodes(), (1, 1))
    assert selectors == [{"kind": "a", "ray.io/node-id": "!in(id2)"}, {"kind": "b"}]


def test_a_gang_that_is_not_elastic_waits_for_all_its_members(cluster):
    one = members_of("a", "b")
    del cluster[2]
    assert counts_now(one, before=(2, 1), waited=99) == (0, 0)


def test_an_elastic_gang_goes_on_without_a_member_and_takes_it_back(cluster):
    one, third = members_of("a", "b", min_ranks=1), cluster.pop()
    assert counts_now(one, before=(2, 1), waited=4.9) == (0, 0)
    assert counts_now(one, before=(2, 1), waited=5.1) == (2, 0)
    assert not members_of("a", "b", min_ranks=3).usable_nodes()[1]
    assert counts_now(members_of("a", "b", min_ranks=3), before=(2, 1), waited=5.1) == (0, 0)
    cluster[:] = [third]
    assert counts_now(one, before=(2, 0), waited=5.1) == (0, 1)
    assert one.can_grow((0, 0)) and counts_now(one) == (0, 1)
    assert not members_of("a", "b", min_ranks=1, num_ranks=1).can_grow((1, 1))  # each has all that it may have


def test_members_on_the_same_nodes_have_ranks_that_fit_together(cluster, monkeypatch):
    """All three nodes are of the second member, two of the first; it gets what the first leaves."""
    pool = PoolConfig(cpus_per_rank=1, min_ranks=1, members=(KindConfig(labels={"kind": "a"}), KindConfig()))
    placement = place_pool(pool, ray_nodes.nodes_by_kind(pool), wandb=None)
    assert [member.num_ranks for member in placement.members] == [2, 1]
    one = Capacity(pool, placement, failures=NodeFailures(None), avoid=frozenset(), label="training")
    assert counts_now(one) == (2, 1)
    assert [selector["ray.io/node-id"] for selector in one.selectors(one.usable_nodes(), (2, 1))] == [
        "id1",
        "id2",
        "id3",
    ]
    monkeypatch.setattr(capacity, "free_resources", lambda nodes: [node for node in nodes if node.host != "host1"])
    assert [selector["ray.io/node-id"] for selector in one.selectors(one.usable_nodes(), (1, 1))] == ["id2", "id3"]
    del cluster[2]
    monkeypatch.setattr(capacity, "free_resources", list)
    assert counts_now(one, before=(2, 1), waited=5.1) == (2, 0)
    assert counts_now(members_of("a", "b", "a", num_ranks=1)) == (0, 0, 0)  # none of b, and all or nothing


def test_a_member_that_is_left_out_never_has_ranks(cluster):
    for settings in ({}, {"min_ranks": 1}):
        one = members_of("a", "b", out="a", **settings)
        assert counts_now(one) == counts_now(one, before=(0, 1), waited=99) == (0, 1)
        assert not one.can_grow((0, 1)) or settings
    assert members_of("a", "b", out="a", min_ranks=1).bounds.room_to_grow((0, 1)) == (0, None)


def test_a_slow_host_is_left_out_where_the_others_are_enough(cluster, monkeypatch, capsys):
    """The only node of a member keeps the others waiting, and no other is of its kind."""
    now, asked, places = 100.0, [], ["host1", "host2", "host3"]
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    monkeypatch.setattr(capacity, "free_resources", lambda nodes: [])
    elastic, fixed, large = (members_of("a", "b", **settings) for settings in ({"min_ranks": 2}, {}, {"min_ranks": 3}))
    checks = [
        ResizeCheck(one, places, (2, 1), resize=lambda: asked.append(now), slow_host=lambda: "host3")
        for one in (large, fixed, elastic)
    ]
    now = 161.0
    for check in checks[:2]:
        check.poll()
    assert asked == []
    checks[2].poll()
    assert asked == [161.0]
    assert "host3 keeps the other ranks waiting, and the other ranks are enough without it" in capsys.readouterr().err
    monkeypatch.setattr(capacity, "free_resources", list)
    assert counts_now(elastic, before=(2, 1), waited=5.1) == (2, 0)


def test_room_for_the_ranks_of_a_slow_host_is_on_nodes_of_their_own_member(cluster, monkeypatch):
    one = members_of("a", "b")
    monkeypatch.setattr(
        capacity, "free_resources", lambda nodes: [node for node in nodes if node.host in ("host4", "host5")]
    )
    assert one.reason_to_leave("host1", ["host1", "host2", "host3"], (2, 1)) == ""
    cluster.append(replace(cluster[2], host="host4", id="id4"))
    assert one.reason_to_leave("host1", ["host1", "host2", "host3"], (2, 1)) == ""
    assert one.reason_to_leave("host4", ["host1", "host2", "host3"], (2, 1)) == ""  # no rank is there
    cluster.append(replace(cluster[0], host="host5", id="id5"))
    assert one.reason_to_leave("host1", ["host1", "host1", "host3"], (2, 1)) == ""
    assert one.reason_to_leave("host1", ["host1", "host2", "host3"], (2, 1)) == "there is room for its ranks elsewhere"
    assert one.reason_to_leave("host3", ["host1", "host2", "host3"], (2, 1)) == "there is room for its ranks elsewhere"
