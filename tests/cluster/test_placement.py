import time

import pytest

from cluster.machines import Node, described
from cluster.placement import TooFew, count_slots, describe_found, place
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


AMD, INTEL, GAUDI = "AMD-Instinct-MI300X-OAM", "Intel-GPU-Max-1550", "Intel-GAUDI"


def gpu_node(kind: str | None, number: int = 8, *, host: str = "host", size: int | None = None) -> Node:
    return Node(host, 64, number, 2**40, accelerator=kind, accelerator_bytes=size)


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "gpu"},
        {"accelerator": "H100"},
        {"num_nodes": 1, "machines": {"cpus_per_node": 8, "memory_gib_per_node": 8, "accelerators_per_node": 8}},
    ],
)
def test_a_cpu_is_no_substitute_for_gpus_that_are_asked_for(settings):
    with pytest.raises(
        TooFew, match=r"the pool wants GPUs, and the driver finds none on 1 node with 8 cores; see what"
    ):
        place(PoolConfig.model_validate(settings), [machine(8)], wandb=None)


def test_gpus_are_left_alone_where_the_pool_says_cpu():
    placement = place(PoolConfig(device="cpu"), [gpu_node("H100")], wandb=None)
    assert (placement.device, placement.num_ranks) == ("cpu", 32)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"device": "cpu", "accelerator": "H100"}, "accelerator H100 is for GPUs, and device is cpu"),
        ({"device": "gpu", "machines": {"cpus_per_node": 8, "memory_gib_per_node": 8}}, "have none"),
        ({"accelerator": AMD}, f"accelerator {AMD} is of AMD, on whose devices Concord never ran; set untested: true"),
        ({"accelerator": GAUDI}, f"accelerator {GAUDI} is of Gaudi"),
    ],
)
def test_settings_of_devices_that_do_not_go_together_are_refused_with_the_file(settings, problem):
    with pytest.raises(ValueError, match=problem):
        PoolConfig.model_validate(settings)


@pytest.mark.parametrize(("kind", "device"), [(AMD, "cuda"), (INTEL, "xpu"), (GAUDI, "hpu")])
def test_devices_on_which_concord_never_ran_are_used_only_on_request(kind, device):
    with pytest.raises(ConfigError, match=r"on whose devices Concord never ran; set untested: true"):
        place(PoolConfig(), [gpu_node(kind)], wandb=None)
    assert place(PoolConfig(untested=True), [gpu_node(kind)], wandb=None).device == device


def test_a_pool_has_devices_of_one_maker():
    with pytest.raises(ConfigError, match=r"GPUs of AMD and NVIDIA, which cannot train together"):
        place(PoolConfig(untested=True), [gpu_node("H100"), gpu_node(AMD)], wandb=None)


def test_the_memory_of_gpus_is_the_pools_value_or_else_what_the_nodes_say():
    machines = {"cpus_per_node": 64, "memory_gib_per_node": 8, "accelerators_per_node": 8}
    nodes = [gpu_node("A100", size=40 * 2**30), gpu_node("A100", size=79 * 2**30)]
    stated = PoolConfig.model_validate({"machines": machines, "accelerator_memory_gib": 80})
    assert place(stated, nodes, wandb=None).memory_bytes_per_rank == 80 * 2**30
    assert (
        place(PoolConfig.model_validate({"machines": machines}), nodes, wandb=None).memory_bytes_per_rank == 40 * 2**30
    )
    planned = place(stated, described(stated), wandb=None)  # as `concord plan` does
    assert planned.memory_bytes_per_rank == 80 * 2**30


def found(nodes: list[Node], **settings: object) -> str:
    pool = PoolConfig.model_validate(settings)
    return describe_found(pool, nodes, place(pool, nodes, wandb=None))


def test_what_was_found_and_what_is_missing_is_one_line():
    machines = {"cpus_per_node": 64, "memory_gib_per_node": 8, "accelerators_per_node": 8}
    assert found([machine(8)]) == "4 ranks on the CPUs of 1 node with 8 cores (no GPU was found)"
    assert found([gpu_node("H100")], device="cpu").endswith(" (as the pool says)")
    all_there = [gpu_node("H100", host=f"n{index}") for index in range(4)]
    assert (
        found(all_there, num_nodes=4, machines=machines)
        == "32 ranks on the GPUs of 4 nodes with 64 cores and 8 GPUs (H100)"
    )
    assert found([Node("a", 4, 8, 2**40, accelerator="H100")]).endswith(
        "(H100); 4 of them idle for want of cores (oversubscribe: true in the pool lets ranks share some)"
    )
    short = [*all_there[:2], gpu_node("H100", 7, host="n2")]
    assert found(short, num_nodes=4, machines=machines) == (
        "23 ranks on the GPUs of 2 nodes with 64 cores and 8 GPUs, 1 node with 64 cores and 7 GPUs (H100); MISSING of "
        "the pool's machines: 1 of 4 nodes, n2 has 7 of 8 GPUs"
    )


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "settings", "share", "threads"),
    [
        (2, 0, {"num_ranks": 4}, 0.5, 1),
        (2, 0, {"num_ranks": 6}, 0.3333, 1),
        (2, 0, {"num_ranks": 2, "cpus_per_rank": 2}, 1.0, 2),
        (8, 0, {"num_ranks": 4}, 2.0, 2),  # there is room
        (4, 8, {}, 0.5, 1),
    ],
)
def test_ranks_share_cores_where_the_pool_lets_them(num_cpus, num_gpus, settings, share, threads):
    number = settings.get("num_ranks", num_gpus)
    placement = placed(num_cpus, num_gpus, oversubscribe=True, **settings)
    assert (placement.num_ranks, placement.cpu_share, placement.cpus_per_rank) == (number, share, threads)
    assert count_slots([machine(num_cpus, num_gpus)], cpus_per_rank=share, device=placement.device) >= number


def test_no_sharing_of_cores_makes_room_for_more_ranks_than_gpus():
    with pytest.raises(TooFew, match=r"the pool wants 9 ranks"):
        placed(4, 8, oversubscribe=True, num_ranks=9)
    with pytest.raises(TooFew, match=r"or let ranks share cores with oversubscribe: true"):
        placed(2, num_ranks=4)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("GeForce RTX 4090", "GeForce-RTX-4090"),
        ("A100-80g", "A100-80G"),
    ],
)
def test_a_name_that_ray_spells_otherwise_is_told(written, meant):
    with pytest.raises(ConfigError, match=f"which Ray calls '{meant}'; write accelerator: {meant}"):
        place(PoolConfig(accelerator=written), [gpu_node(written)], wandb=None)
