"""Pools of unlike kinds of machines: laid out together, counted together."""

from typing import Any

import pytest

from cluster.machines import Node
from cluster.members import count_ranks, describe_pool, device_of_all, name_of_kind, place_pool
from cluster.placement import TooFew
from configs.base import ConfigError
from configs.pools import PoolConfig

MACHINES: dict[str, Any] = {"cpus_per_node": 64, "memory_gib_per_node": 512, "accelerators_per_node": 8}
CPUS: dict[str, Any] = {"cpus_per_node": 2, "memory_gib_per_node": 8}


def pool_of(*members: dict[str, Any], **settings: Any) -> PoolConfig:
    return PoolConfig.model_validate({"members": list(members), **settings})


def cpu_node(name: str, num_cpus: int = 2, *, memory: int = 2**34) -> Node:
    return Node(name, num_cpus, 0, memory, id=name)


def gpu_node(name: str, kind: str | None, number: int = 8, *, size: int | None = None) -> Node:
    return Node(name, 64, number, 2**40, accelerator=kind, accelerator_bytes=size, id=name)


def test_a_pool_without_members_is_laid_out_as_one_kind():
    placement = place_pool(PoolConfig(num_ranks=1), [[cpu_node("a")]], wandb=None)
    assert (placement.num_ranks, placement.members, placement.balance) == (1, (), "even")


def test_each_member_has_its_own_layout_and_the_least_of_any_is_that_of_the_pool():
    pool = pool_of(
        {"accelerator": "H100", "micro_batch_size": 4},
        {"accelerator": "A100", "accelerator_memory_gib": 80, "cpus_per_rank": 2, "num_ranks": 2},
    )
    nodes = [[gpu_node("a", "H100", size=80 * 2**30 - 1)], [gpu_node("b", "A100", size=40 * 2**30)]]
    placement = place_pool(pool, nodes, wandb=None)
    first, second = placement.members
    assert (placement.num_ranks, first.num_ranks, second.num_ranks) == (10, 8, 2)
    assert (first.cpus_per_rank, second.cpus_per_rank) == (8, 2)
    assert (first.micro_batch_size, second.micro_batch_size, placement.micro_batch_size) == (4, 8, 4)
    assert (second.memory_bytes_per_rank, placement.memory_bytes_per_rank) == (80 * 2**30, 80 * 2**30 - 1)
    assert (first.capability, placement.capability) == ((9, 0), (8, 0))
    assert (placement.balance, first.kind, second.kind) == ("speed", "H100", "A100")
    assert [placement.member_of(rank, (8, 2)) for rank in (0, 7, 8, 9)] == [0, 0, 1, 1]
    assert describe_pool(pool, nodes, placement) == (
        "H100: 8 ranks on the GPUs of 1 node with 64 cores and 8 GPUs (H100); "
        "A100: 2 ranks on the GPUs of 1 node with 64 cores and 8 GPUs (A100)"
    )


def test_members_of_the_same_name_are_called_by_their_numbers():
    pool = pool_of({"accelerator": "H100"}, {"accelerator": "A100"}, {"accelerator": "H100", "labels": {"zone": "a"}})
    assert [name_of_kind(pool, number) for number in range(3)] == ["member 1", "A100", "member 3"]


def test_members_on_one_node_share_its_cores_and_its_memory():
    pool = pool_of({"num_ranks": 1}, {"num_ranks": 2, "cpus_per_rank": 1}, cpus_per_rank=2)
    node = cpu_node("a", 4)
    placement = place_pool(pool, [[node], [node]], wandb=None)
    assert [member.num_ranks for member in placement.members] == [1, 2]
    assert {member.memory_bytes_per_rank for member in placement.members} == {2**34 // 3}
    assert placement.host_bytes_per_rank == 2**34 // 3
    assert placement.num_tasks == 4  # the node's cores count once
    with pytest.raises(TooFew, match=r"want 1 of 2 CPU cores and 2 of 1 CPU cores, but .* 1 node with 3 cores; lower"):
        place_pool(pool, [[cpu_node("a", 3)]] * 2, wandb=None)


def test_members_that_oversubscribe_share_cores_as_far_as_it_takes():
    pool = pool_of({"num_ranks": 1}, {"num_ranks": 2, "emulated_seconds_per_sequence": 0.5}, oversubscribe=True)
    placement = place_pool(pool, [[cpu_node("a", 2)]] * 2, wandb=None)
    assert [(member.cpus_per_rank, member.cpu_share) for member in placement.members] == [(2, 0.5), (1, 0.5)]
    assert [member.emulated_seconds_per_sequence for member in placement.members] == [None, 0.5]
    one = pool_of({"num_ranks": 1, "cpus_per_rank": 1}, {"num_ranks": 2, "oversubscribe": True})
    shares = [member.cpu_share for member in place_pool(one, [[cpu_node("a", 2)]] * 2, wandb=None).members]
    assert shares == [1.0, 0.5]


def test_a_member_takes_the_nodes_that_no_other_may_use_before():
    pool = pool_of({"num_ranks": 1}, {"num_ranks": 1}, cpus_per_rank=2)
    shared, own = cpu_node("shared"), cpu_node("own")
    placement = place_pool(pool, [[shared, own], [shared]], wandb=None)
    first, second = count_ranks(placement.members, [[shared, own], [shared]], (None, None))
    assert (first["own"], first["shared"], second.total()) == (1, 1, 0)  # as many as fit: the first takes all
    first, second = count_ranks(placement.members, [[shared, own], [shared]], (1, 1))
    assert (first["own"], second["shared"]) == (1, 1)


def test_gpus_of_a_node_that_members_share_are_counted_once():
    pool = pool_of({"num_ranks": 5}, {"num_ranks": 3}, device="gpu", cpus_per_rank=1)
    node = gpu_node("a", "H100")
    assert place_pool(pool, [[node]] * 2, wandb=None).num_ranks == 8
    with pytest.raises(TooFew, match="want 5 of 1 CPU cores and 4 of 1"):
        place_pool(pool_of({"num_ranks": 5}, {"num_ranks": 4}, device="gpu", cpus_per_rank=1), [[node]] * 2, wandb=None)


def test_a_member_that_lacks_nodes_is_named():
    with pytest.raises(TooFew, match=r"^A100: there is no node with accelerator A100 here"):
        place_pool(pool_of({"accelerator": "H100"}, {"accelerator": "A100"}), [[gpu_node("a", "H100")], []], wandb=None)


def test_an_elastic_pool_begins_with_the_ranks_that_there_are_of_each_member():
    away = {"accelerator": "A100", "num_nodes": 1, "machines": MACHINES}
    pool = pool_of({"accelerator": "H100", "num_ranks": 16}, away, min_ranks=4)
    nodes = [[gpu_node("a", "H100")], []]
    placement = place_pool(pool, nodes, wandb=None)
    assert [member.num_ranks for member in placement.members] == [8, 0]
    assert (placement.num_ranks, placement.min_ranks, placement.capability) == (8, 4, (9, 0))
    assert placement.members[1].memory_bytes_per_rank == 40 * 2**30  # of what it will have
    said = describe_pool(pool, nodes, placement)
    assert said.endswith("A100: no ranks on no nodes; MISSING of the pool's machines: 1 of 1 nodes")
    with pytest.raises(TooFew, match=r"^A100: there is no node with accelerator A100 here"):
        place_pool(pool_of({"accelerator": "H100"}, away, min_ranks=9), nodes, wandb=None)
    with pytest.raises(
        TooFew, match=r"^A100: there is no node.*say what its `machines` are"
    ):  # nobody knows what it would be
        place_pool(pool_of({"accelerator": "H100"}, {"accelerator": "A100"}, min_ranks=4), nodes, wandb=None)


def test_of_an_elastic_pool_those_members_that_come_last_get_fewer_ranks_of_shared_nodes():
    def elastic(min_ranks: int) -> PoolConfig:
        return pool_of({"num_ranks": 2}, {"num_ranks": 2}, cpus_per_rank=1, min_ranks=min_ranks)

    nodes = [[cpu_node("a", 3)]] * 2
    placement = place_pool(elastic(1), nodes, wandb=None)
    assert ([member.num_ranks for member in placement.members], placement.num_ranks) == ([2, 1], 3)
    with pytest.raises(
        TooFew, match=r"want 2 of 1 CPU cores and 2 of 1 CPU cores, or at least 4 of them, but together"
    ):
        place_pool(elastic(4), nodes, wandb=None)


def test_members_of_two_makers_or_of_gpus_and_cpus_are_refused():
    pool = pool_of({"labels": {"kind": "a"}}, {"labels": {"kind": "b"}}, untested=True)
    with pytest.raises(ConfigError, match=r"members compute on AMD and NVIDIA, which cannot train together; choose"):
        place_pool(pool, [[gpu_node("a", "H100")], [gpu_node("b", "AMD-Instinct-MI300X-OAM")]], wandb=None)
    with pytest.raises(ConfigError, match=r"members compute on cpu and cuda, which cannot train together"):
        place_pool(pool, [[gpu_node("a", "H100")], [cpu_node("b")]], wandb=None)
    assert device_of_all(pool, [[gpu_node("a", "H100")], []]) == "cuda"
    assert device_of_all(pool, [[], []]) is None


def test_ranks_of_a_pool_that_is_deterministic_get_as_many_sequences_each():
    members = {"labels": {"kind": "a"}}, {"labels": {"kind": "b"}}
    nodes = [[cpu_node("a")], [cpu_node("b")]]
    for settings, balance in (
        ({}, "speed"),
        ({"deterministic": True}, "even"),
        ({"balance": "even"}, "even"),
    ):
        assert place_pool(pool_of(*members, **settings), nodes, wandb=None).balance == balance


def test_a_member_knows_its_machines_by_the_cluster_file_where_that_describes_them():
    own = [{"accelerator": "H100", "machines": MACHINES | {"network_gbps_per_node": 400}}, {"device": "gpu"}]
    mixed = [gpu_node("c", "A100"), gpu_node("d", "H100")]
    for nodes, name in (([gpu_node("b", "A100")], "A100"), (mixed, "")):
        first, second = place_pool(pool_of(*own), [[gpu_node("a", "H100")], nodes], wandb=None).members
        assert (first.accelerator, first.network_gbps_per_node, first.hosts) == ("H100", 400, ())
        assert (second.accelerator, second.network_gbps_per_node, second.hosts) == (name, None, ())
    pool = pool_of({"num_ranks": 1}, {"num_ranks": 1, "machines": CPUS}, device="cpu")
    placement = place_pool(pool, [[cpu_node("b"), cpu_node("a")], [cpu_node("c")]], wandb=None)
    assert [one.hosts for one in placement.members] == [("a", "b"), ()]
    assert placement.hosts == () and placement.accelerator == ""
