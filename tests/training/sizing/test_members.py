"""How unlike devices of a pool train: the most sequences that each holds, the stage, and who is left out and why."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from cluster.devices import memory_bytes_by_ray_name
from cluster.machines import GIB, Node
from cluster.members import place_pool
from cluster.placement import Placement
from configs.base import ConfigError
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from tests.training.sizing.test_fit import recipe
from training.allocation.choice import fastest_option
from training.sizing.candidates import find_candidates
from training.sizing.fit import choose_layout, make_layout
from training.sizing.member_times import MembersJob, largest_layout
from training.sizing.members import MembersChoice, choose_members, shown_times
from training.sizing.recipe_size import find_parameters, measure_model, settle_placement

MODEL = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
"""1.1 billion parameters with 32,000 pieces."""


def config(**changes: object) -> TrainConfig:
    return recipe(**({"model": MODEL, "sequence_length": 4096, "global_batch_size": 512} | changes))


def unlike(*kinds: str, num_nodes: int = 2, own: Sequence[dict[str, object]] = (), **pool: object) -> Placement:
    """A pool of 8 GPUs a node of each kind; `own` are keys of the members."""
    given = [*own, *({} for _ in range(len(kinds) - len(own)))]
    members = [{"accelerator": kind} | keys for kind, keys in zip(kinds, given, strict=True)]
    nodes = [
        [Node(f"{place}-{kind}-{i}", 64, 8, 2**40, kind, memory_bytes_by_ray_name(kind)) for i in range(num_nodes)]
        for place, kind in enumerate(kinds)
    ]
    return place_pool(PoolConfig.model_validate({"members": members} | pool), nodes, wandb=None)


def cpus(*own: dict[str, object], **pool: object) -> Placement:
    settings = {"members": [{"num_ranks": 2} | keys for keys in own], "device": "cpu"} | pool
    nodes = [[Node(f"host-{number}", 8, 0, 32 * GIB)] for number in range(len(own))]
    return place_pool(PoolConfig.model_validate(settings), nodes, wandb=None)


def choose(placement: Placement, trained: TrainConfig | None = None, *, store: Path | None = None) -> MembersChoice:
    trained = trained or config()
    model = find_parameters(trained, vocab_size=32_000)
    return choose_members(model, measure_model(model, trained), trained, placement, store=store)


def job_of(placement: Placement, trained: TrainConfig | None = None) -> MembersJob:
    trained = trained or config()
    model = find_parameters(trained, vocab_size=32_000)
    return MembersJob(model, measure_model(model, trained), trained, placement)


def test_nothing_is_left_open_and_each_kind_gets_what_its_memory_holds() -> None:
    placement = unlike("H100", "A100")
    settled = settle_placement(placement, config(), vocab_size=32_000, store=None)
    assert settled.leaves_open == () and settled.zero_stage == 1 and settled.num_ranks == settled.min_ranks == 32
    fast, slow = settled.members
    assert fast.micro_batch_size > slow.micro_batch_size >= 1 and fast.leaves_open == slow.leaves_open == ()
    assert fast.zero_stage == slow.zero_stage == 1 and fast.left_out == slow.left_out == ""
    assert settled.micro_batch_size == slow.micro_batch_size and settled.memory_bytes_per_rank == 40 * GIB
    assert settle_placement(settled, config(), vocab_size=32_000, store=None) == settled


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1])
def test_one_more_sequence_would_not_fit(stage: int, number: int) -> None:
    job = job_of(unlike("A100", "L4"))
    found = largest_layout(job, number, 32, stage)
    own = replace(job.placement.members[number], num_ranks=32, min_ranks=32)
    tried = [make_layout(job.size, job.config, own, stage, rows).fits for rows in range(1, 17)]
    assert tried == sorted(tried, reverse=True)
    assert found.fits == tried[0]
    assert found.micro_batch_size == max(1, sum(tried)) and (found.fits is False or not all(tried))


def test_what_a_member_fixes_is_its_limit() -> None:
    settled = choose(unlike("H100", "A100", own=[{"micro_batch_size": 2}])).placement
    assert settled.members[0].micro_batch_size == 2 and settled.members[1].micro_batch_size > 2


def test_devices_that_slow_the_step_are_left_out_and_the_reason_has_both_times() -> None:
    found = choose(unlike("H100", "V100", activation_checkpointing=False))
    fast, slow = found.placement.members
    assert found.placement.num_ranks == fast.num_ranks == 16 and slow.num_ranks == 0 and fast.left_out == ""
    assert found.option is not None and found.runner_up is not None
    assert found.runner_up.candidate.members == (0, 1) and found.runner_up.seconds > found.option.seconds
    with_it, without = shown_times(found.runner_up.seconds, found.option.seconds)
    assert slow.left_out == f"the step takes {with_it} with it and {without} without"


def test_devices_that_hold_no_sequence_are_left_out_with_what_they_lack() -> None:
    trained = config(model=MODEL | {"hidden_size": 4096, "num_layers": 32, "intermediate_size": 14336})
    found = choose(unlike("B200", "L4", activation_checkpointing=False), trained)
    assert found.placement.num_ranks == 16 and found.remedy == ""
    assert found.placement.members[1].left_out.startswith("its ranks need ")
    assert found.placement.members[1].left_out.endswith(" GiB in ZeRO 3, and have 22.5")


@pytest.mark.parametrize(
    "kinds", [("H100", "A100"), ("H100", "V100"), ("A100", "L4", "L40S"), ("H100", "A100", "L40S", "V100")]
)
def test_the_choice_is_no_slower_than_any_kind_alone(kinds: tuple[str, ...]) -> None:
    placement = unlike(*kinds)
    found, job = choose(placement), job_of(placement)
    assert found.option is not None
    for number in range(len(kinds)):
        alone = fastest_option(find_candidates(job, (number,)), config().global_batch_size)
        assert alone is None or found.option.seconds <= alone.seconds


def test_an_elastic_pool_keeps_the_ranks_that_it_must_have() -> None:
    pool: dict[str, object] = {"activation_checkpointing": False}
    assert choose(unlike("H100", "V100", min_ranks=16, **pool)).placement.num_ranks == 16
    for least in (20, 32):
        kept = choose(unlike("H100", "V100", min_ranks=least, **pool)).placement
        assert kept.num_ranks == 32 and kept.min_ranks == least and all(one.num_ranks for one in kept.members)


def test_an_elastic_training_fits_on_the_ranks_that_it_may_shrink_to() -> None:
    few, many = (choose(unlike("H100", "A100", min_ranks=least)).placement for least in (1, 31))
    assert few.zero_stage > many.zero_stage or [one.micro_batch_size for one in few.members] < [
        one.micro_batch_size for one in many.members
    ]


def test_a_stage_that_the_pool_fixes_stays_and_sets_are_chosen_from() -> None:
    assert choose(unlike("H100", "A100", zero_stage=3)).placement.zero_stage == 3
    assert choose(unlike("H100", "V100", zero_stage=2)).placement.num_ranks == 16


def test_a_kind_that_alone_recomputes_does_so_below_stage_3_only() -> None:
    own = [{"activation_checkpointing": False}, {"activation_checkpointing": True}]
    placement = unlike("H100", "L4", own=own)
    found = choose(placement).placement
    assert [one.activation_checkpointing for one in found.members] == [False, True]
    job = job_of(placement)
    assert {one.zero_stage for one in find_candidates(job, (0, 1))} <= {1, 2}
    assert any(one.recomputing == (1,) for one in find_candidates(job, (1,)))


WIDE = MODEL | {"hidden_size": 2560, "num_layers": 32, "intermediate_size": 10240}


def test_where_a_pool_leaves_it_open_the_kind_that_holds_no_sequence_otherwise_recomputes() -> None:
    kinds, trained = ("A100-40G", "A100-80G"), config(model=WIDE)
    found = choose(unlike(*kinds), trained)
    assert [one.activation_checkpointing for one in found.placement.members] == [True, False]
    assert found.placement.zero_stage == 1 and found.option and found.option.candidate.recomputing == (0,)
    refused = choose(unlike(*kinds, activation_checkpointing=False), trained)
    assert not any(one.activation_checkpointing for one in refused.placement.members)
    assert refused.option and refused.option.seconds >= found.option.seconds


def test_why_a_kind_is_left_out_that_may_not_recompute_beside_the_others_is_what_it_lacks() -> None:
    own = [{"activation_checkpointing": False}, {"accelerator_memory_gib": 10}]
    found = choose(unlike("H100", "L40S", own=own, zero_stage=3))
    assert found.placement.members[1].left_out.startswith("its ranks need ")
    assert found.placement.members[1].left_out.endswith(" GiB in ZeRO 3, and have 10.0")


@pytest.mark.parametrize("recomputes", [True, False])
def test_a_kind_that_recomputes_otherwise_does_not_join_in_zero_3(recomputes: bool) -> None:
    machines = {"cpus_per_node": 64, "memory_gib_per_node": 1024, "accelerators_per_node": 8}
    own = {"activation_checkpointing": not recomputes, "num_nodes": 2, "machines": machines}
    members = [{"accelerator": "H100", "activation_checkpointing": recomputes}, {"accelerator": "B200"} | own]
    nodes = [Node(f"{i}", 64, 8, 2**40, "H100", memory_bytes_by_ray_name("H100")) for i in range(2)]
    pool = PoolConfig.model_validate({"members": members, "min_ranks": 8})
    large = config(model=MODEL | {"hidden_size": 4096, "num_layers": 32, "intermediate_size": 14336})
    placement = place_pool(pool, [nodes, []], wandb=None)
    placement = replace(placement, members=tuple(replace(one, zero_stage=3) for one in placement.members))
    found = choose(replace(placement, zero_stage=3, leaves_open=("micro_batch_size",)), large).placement
    assert [one.num_ranks for one in found.members] == [16, 0]
    assert found.members[1].left_out.startswith("in ZeRO 3 all recompute activations or none")


@pytest.mark.parametrize("layers", [16, 32, 48])
@pytest.mark.parametrize("kinds", [("H100", "V100"), ("A100-40G", "A100-80G"), ("H100", "L40S", "V100")])
def test_no_other_way_to_recompute_is_faster(kinds: tuple[str, ...], layers: int) -> None:
    trained = config(model=MODEL | {"num_layers": layers})
    chosen = choose(unlike(*kinds), trained)
    assert chosen.option is not None and not any(one.leaves_open for one in chosen.placement.members)
    for ways in product([False, True], repeat=len(kinds)):
        own = [{"activation_checkpointing": recomputes} for recomputes in ways]
        other = choose(unlike(*kinds, own=own), trained)
        assert other.option is None or chosen.option.seconds <= other.option.seconds * 1.01


def test_in_zero_3_all_recompute_or_none() -> None:
    large = config(model=MODEL | {"hidden_size": 4096, "num_layers": 32, "intermediate_size": 14336})
    placement = unlike("H100", "V100", zero_stage=3)
    job = job_of(placement, large)
    assert {one.recomputing for one in find_candidates(job, (0, 1))} == {(0, 1)}
    half = unlike("H100", "V100", own=[{"activation_checkpointing": True}], zero_stage=3)
    assert {one.recomputing for one in find_candidates(job_of(half, large), (0, 1))} == {(0, 1)}


def test_where_speeds_are_not_known_recomputation_comes_after_higher_stages() -> None:
    fits = choose(unlike("V100", "T4"), config(model=MODEL | {"num_layers": 8}, precision="fp32"))
    assert fits.option is None and not fits.remedy and fits.placement.zero_stage > 1
    assert not any(one.activation_checkpointing for one in fits.placement.members)
    large = choose(unlike("V100", "T4"), config(model=MODEL | {"num_layers": 24}, precision="fp32"))
    assert large.option is None and not large.remedy
    assert any(one.activation_checkpointing for one in large.placement.members)


def test_a_kind_without_ranks_recomputes_when_it_joins_if_it_must() -> None:
    machines = {"cpus_per_node": 64, "memory_gib_per_node": 1024, "accelerators_per_node": 8}
    settings = {"members": [{"accelerator": "H100"}, {"accelerator": "V100", "num_nodes": 2, "machines": machines}]}
    nodes = [Node(f"{i}", 64, 8, 2**40, "H100", memory_bytes_by_ray_name("H100")) for i in range(2)]
    pool = PoolConfig.model_validate(settings | {"min_ranks": 8})
    found = choose(place_pool(pool, [nodes, []], wandb=None))
    assert [one.num_ranks for one in found.placement.members] == [16, 0]
    assert [one.activation_checkpointing for one in found.placement.members] == [False, True]


def test_of_cpus_whose_speed_is_not_known_nobody_is_left_out() -> None:
    small = config(model=MODEL | {"hidden_size": 64, "num_layers": 2}, sequence_length=128, precision="fp32")
    found = choose(cpus({}, {}), small)
    assert found.option is None and found.placement.num_ranks == 4
    assert [one.micro_batch_size for one in found.placement.members] == [8, 8]
    assert [one.left_out for one in found.placement.members] == ["", ""]


def test_emulated_seconds_are_what_a_pass_takes_at_least() -> None:
    small = config(model=MODEL | {"hidden_size": 64, "num_layers": 2}, sequence_length=128, precision="fp32")
    emulated = [{"emulated_seconds_per_sequence": seconds} for seconds in (0.1, 0.4)]
    found = choose(cpus(*emulated), small)
    assert found.option is not None and found.placement.num_ranks == 4
    fast, slow = found.option.candidate.devices
    assert fast.pass_seconds[:2] == (0.1, 0.2) and slow.pass_seconds[0] == 0.4
    one_known = choose(cpus(emulated[0], {}), small)
    assert one_known.option is None and one_known.placement.num_ranks == 4


def test_a_slow_network_leaves_the_kind_behind_it_out() -> None:
    def with_network(gbps: float | None) -> MembersChoice:
        placement = unlike("H100", "A100")
        members = tuple(replace(one, network_gbps_per_node=gbps) for one in placement.members)
        return choose(replace(placement, members=members))

    assert with_network(None).placement.num_ranks == with_network(3200.0).placement.num_ranks == 32
    slow = unlike("H100", "A100", num_nodes=1)
    first, second = slow.members
    found = choose(replace(slow, members=(first, replace(second, network_gbps_per_node=1.0))))
    assert found.placement.num_ranks == 8 and found.placement.members[1].left_out.startswith("the step takes ")


def test_kinds_with_the_same_accelerator_have_its_speed() -> None:
    placement = unlike("H100", "H100", "A100", own=[{"micro_batch_size": 1}])
    assert [one.kind for one in placement.members] == ["member 1", "member 2", "A100"]
    found = choose(placement)
    assert found.option is not None and found.placement.num_ranks == 48
    first, second, _ = found.option.candidate.devices
    assert first.pass_seconds[0] == second.pass_seconds[0] and len(second.pass_seconds) > 1


def test_even_steps_have_the_layout_of_the_least_member() -> None:
    found = choose(unlike("H100", "V100", balance="even", own=[{}, {}])).placement
    fast, slow = found.members
    assert found.num_ranks == 32 and fast.micro_batch_size == slow.micro_batch_size == found.micro_batch_size
    job = job_of(unlike("H100", "V100", balance="even"))
    assert found.micro_batch_size <= largest_layout(job, 1, 32, found.zero_stage).micro_batch_size
    fixed = unlike("H100", "A100", balance="even", micro_batch_size=1)
    assert choose(fixed).placement.micro_batch_size == 1
    job = job_of(fixed)
    assert choose(fixed).placement.zero_stage == choose_layout(job.size, job.config, fixed).chosen.zero_stage


def test_what_fits_nowhere_says_what_to_change() -> None:
    huge = config(model=MODEL | {"hidden_size": 8192, "num_layers": 80, "intermediate_size": 28672})
    found = choose(unlike("A100", "L4"), huge)
    assert found.remedy and not found.tightest.fits and found.placement.num_ranks == 32
    assert found.tightest is found.layouts[1]


def test_attention_that_a_member_does_not_have_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match="V100: "):
        choose(unlike("H100", "V100", attention="varlen"))


def test_times_are_told_apart() -> None:
    assert shown_times(0.0482, 1.314, 131.4) == ["48.2 ms", "1.31 s", "131 s"]
    assert shown_times(2.5512, 2.5501) == ["2.551 s", "2.550 s"]


def test_a_kind_without_ranks_now_has_the_limit_that_it_will_have() -> None:
    machines = {"cpus_per_node": 64, "memory_gib_per_node": 1024, "accelerators_per_node": 8}
    kinds = [{"accelerator": name, "machines": machines, "num_nodes": 2} for name in ("H100", "A100", "V100")]
    pool = PoolConfig.model_validate({"members": kinds, "min_ranks": 8, "activation_checkpointing": False})
    there = [Node(f"H100-{i}", 64, 8, 2**40, "H100", memory_bytes_by_ray_name("H100")) for i in range(2)]
    found = choose(place_pool(pool, [there, [], []], wandb=None)).placement
    fast, later, small = found.members
    assert found.num_ranks == fast.num_ranks == 16 and found.min_ranks == 8 and later.num_ranks == 0
    assert later.left_out == "" and 1 <= later.micro_batch_size < fast.micro_batch_size and later.leaves_open == ()
    assert small.left_out.startswith("its ranks need ")  # which it would not hold, too


@pytest.mark.parametrize(("network", "joins"), [(3200.0, True), (1.0, False)])
def test_a_kind_without_ranks_now_may_join_unless_the_step_would_take_longer(network: float, joins: bool) -> None:
    machines = {"cpus_per_node": 64, "memory_gib_per_node": 1024, "accelerators_per_node": 8}
    kinds = [
        {"accelerator": "H100"},
        {"accelerator": "A100", "machines": machines | {"network_gbps_per_node": network}},
    ]
    pool = PoolConfig.model_validate({"members": kinds, "min_ranks": 4})
    there = [Node("H100-0", 64, 8, 2**40, "H100", memory_bytes_by_ray_name("H100"))]
    placement = place_pool(pool, [there, []], wandb=None)
    assert [one.num_expected for one in placement.members] == [0, 8]
    _, later = choose(placement).placement.members
    assert later.num_ranks == 0 and (later.left_out == "") == joins
    assert joins or later.left_out.startswith("with the ranks that it may have the step takes ")
