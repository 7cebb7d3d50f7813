import time

import pytest

from cluster.machines import Node
from cluster.placement import TooFew, place
from configs.base import ConfigError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig


def placed(num_cpus: int, num_gpus: int = 0, **settings):
    return place(PoolConfig(**settings), [machine(num_cpus, num_gpus)], wandb=None)


def machine(num_cpus: int, num_gpus: int = 0) -> Node:
    return Node("host", num_cpus, num_gpus, memory_bytes=2**34)


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "settings", "layout"),
    [
        (1, 0, {}, (1, 1, "cpu")),
        (2, 0, {}, (1, 2, "cpu")),
        (8, 0, {}, (4, 2, "cpu")),
        (7, 0, {}, (3, 2, "cpu")),
        (16, 1, {}, (1, 16, "cuda")),
        (16, 4, {}, (4, 4, "cuda")),
        (16, 4, {"num_ranks": 2}, (2, 8, "cuda")),
        (16, 4, {"cpus_per_rank": 1}, (4, 1, "cuda")),
        (4, 0, {"num_ranks": 4}, (4, 1, "cpu")),
        (4, 0, {"num_ranks": 1, "cpus_per_rank": 3}, (1, 3, "cpu")),
    ],
)
def test_ranks_and_cores_follow_from_the_machines(num_cpus, num_gpus, settings, layout):
    placement = placed(num_cpus, num_gpus, **settings)
    assert (placement.num_ranks, placement.cpus_per_rank, placement.device) == layout


@pytest.mark.parametrize("num_gpus", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("num_cpus", [8, 9, 31, 64])
def test_a_pool_that_asks_for_nothing_always_fits(num_cpus, num_gpus):
    placement = placed(num_cpus, num_gpus)
    assert 1 <= placement.num_ranks * placement.cpus_per_rank <= num_cpus


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "settings"),
    [
        (2, 0, {"num_ranks": 3}),
        (4, 0, {"num_ranks": 2, "cpus_per_rank": 3}),
        (64, 2, {"num_ranks": 4}),
        (8, 2, {"cpus_per_rank": 5}),
    ],
)
def test_a_pool_that_asks_for_more_than_there_is_is_refused(num_cpus, num_gpus, settings):
    with pytest.raises(ConfigError) as caught:
        placed(num_cpus, num_gpus, **settings)
    gpus = f" and {num_gpus} GPUs" if num_gpus else ""
    assert f"there are 1 node with {num_cpus} cores{gpus}; lower num_ranks" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_never_wants_more_cores_than_there_are():
    assert placed(2, cpus_per_task=8).cpus_per_task == 2
    assert placed(16, cpus_per_task=8).cpus_per_task == 8


def test_the_other_settings_are_passed_on():
    pool = PoolConfig(zero_stage=3, micro_batch_size=2, max_restarts=0, start_timeout_seconds=1.5)
    wandb = WandbConfig(project="p")
    placement = place(pool, [machine(2)], wandb=wandb)
    assert (placement.zero_stage, placement.micro_batch_size, placement.max_restarts) == (3, 2, 0)
    assert (placement.start_timeout_seconds, placement.wandb) == (1.5, wandb)


@pytest.mark.parametrize(
    ("cpus", "settings", "layout"),
    [
        ([1, 1], {}, (2, 1)),
        ([3, 3], {}, (2, 3)),
        ([2, 4], {}, (3, 2)),
        ([4, 4], {"num_ranks": 3}, (3, 2)),
    ],
)
def test_a_rank_lies_on_one_node(cpus, settings, layout):
    placement = place(PoolConfig(**settings), [machine(count) for count in cpus], wandb=None)
    assert (placement.num_ranks, placement.cpus_per_rank) == layout


def test_cores_of_several_nodes_are_no_cores_of_one_rank():
    with pytest.raises(ConfigError, match="2 nodes with 2 cores"):
        place(PoolConfig(num_ranks=1, cpus_per_rank=3), [machine(2), machine(2)], wandb=None)


@pytest.mark.parametrize(
    ("settings", "num_ranks", "min_ranks"),
    [
        ({"num_ranks": 4, "min_ranks": 1}, 2, 1),
        ({"num_ranks": 2, "min_ranks": 2}, 2, 2),
        ({"min_ranks": 1}, 2, 1),
    ],
)
def test_an_elastic_pool_begins_with_what_there_is(settings, num_ranks, min_ranks):
    placement = place(PoolConfig(cpus_per_rank=1, **settings), [machine(1), machine(1)], wandb=None)
    assert (placement.num_ranks, placement.min_ranks) == (num_ranks, min_ranks)


def test_an_elastic_pool_is_refused_where_not_even_the_fewest_fit():
    with pytest.raises(TooFew, match="3 ranks of 1 CPU cores, but there are 2 nodes"):
        place(PoolConfig(num_ranks=4, min_ranks=3, cpus_per_rank=1), [machine(1), machine(1)], wandb=None)


def test_a_pool_without_a_node_says_what_is_sought_and_where_to_start():
    with pytest.raises(TooFew, match=r"no node with accelerator H100 here .* by `concord submit`"):
        place(PoolConfig(accelerator="H100"), [], wandb=None)


def test_machines_with_very_many_cores_are_laid_out_at_once():
    started = time.monotonic()
    placement = placed(10**9, num_ranks=3)
    assert (placement.num_ranks, placement.cpus_per_rank) == (3, 10**9 // 3)
    assert time.monotonic() - started < 1


def test_a_second_copy_of_the_weights_is_sharded_over_a_divisor_of_the_ranks():
    zero = {"deepspeed": {"zero_optimization": {"zero_hpz_partition_size": 4}}, "zero_stage": 3}
    assert placed(64, 8, **zero).deepspeed.zero_optimization.zero_hpz_partition_size == 4
    with pytest.raises(ConfigError, match=r"zero_hpz_partition_size is 4, which does not divide its 6 ranks; set it"):
        placed(64, 6, **zero)
