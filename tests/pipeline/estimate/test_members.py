"""What a plan says of a training on unlike devices: the choice of the run, who does how much, and at what price."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.cluster import ClusterConfig
from configs.training.train import TrainConfig
from pipeline.estimate.estimate import Estimate, estimate
from pipeline.estimate.machines import lay_out
from pipeline.estimate.member_rows import describe_passes, members_rows
from pipeline.estimate.rows import describe_problem, estimate_rows
from tests.pipeline.estimate.test_speed import conform_record
from tests.training.sizing.test_measured_members import A100, H100, SMALL, keep_cpu_times, keep_link, keep_times
from tests.training.sizing.test_members import MODEL, config
from training.sizing.recipe_size import settle_placement

MACHINES = {"cpus_per_node": 64, "memory_gib_per_node": 1024, "accelerators_per_node": 8}


def kind(accelerator: str, num_nodes: int = 2, price: float | None = None, **keys: object) -> dict[str, object]:
    priced = {} if price is None else {"price_per_node_hour": price}
    return {"accelerator": accelerator, "num_nodes": num_nodes, "machines": MACHINES | priced} | keys


def planned(
    *kinds: dict[str, object], trained: TrainConfig | None = None, store: Path | None = None, **pool: object
) -> Estimate:
    settings = {"pools": {"default": {"members": list(kinds)} | pool}}
    cluster = ClusterConfig.model_validate(settings)
    nodes, placement = lay_out(cluster, "default")
    return estimate(
        trained or config(),
        vocab_size=32_000,
        pool=cluster.pools["default"],
        nodes=nodes,
        placement=placement,
        store=None,
        work_store=store,
        is_their_disk=False,
    )


def rows_of(found: Estimate, trained: TrainConfig | None = None) -> list[tuple[str, str]]:
    return estimate_rows(found, trained or config())


def test_kinds_whose_machines_are_described_alike_have_machines_of_their_own() -> None:
    cluster = ClusterConfig.model_validate({"pools": {"default": {"members": [kind("H100"), kind("A100")]}}})
    nodes, placement = lay_out(cluster, "default")
    assert len(nodes) == 4 and placement.num_ranks == 32


@pytest.mark.parametrize("other", ["A100", "V100", "L40S"])
def test_the_plan_has_the_layout_of_the_run(other: str) -> None:
    cluster = ClusterConfig.model_validate({"pools": {"default": {"members": [kind("H100"), kind(other)]}}})
    _, placement = lay_out(cluster, "default")
    settled = settle_placement(placement, config(), vocab_size=32_000, store=None)
    assert planned(kind("H100"), kind(other)).placement == settled


def test_each_kind_has_a_row_and_the_step_is_shared_whole() -> None:
    found = planned(kind("H100"), kind("A100"))
    assert found.members is not None and found.fits
    shares = [share for one in found.members.members for share in one.shares]
    assert sum(share.num_ranks * share.num_sequences for share in shares) == config().global_batch_size
    rows = rows_of(found)
    assert [text.split(":")[0] for name, text in rows if name == "member"] == ["H100", "A100"]
    assert "; A100: 16 ranks 9 sequences each (" in dict(rows)["allocation"]
    assert f"eta {found.members.eta:.3f}" in dict(rows)["a step"] and "left out" not in dict(rows)
    assert dict(rows)["runner-up"].startswith("H100 alone in ZeRO 1: ")


def test_what_is_left_out_is_said_with_the_reason_and_the_share_of_all() -> None:
    found = planned(kind("H100", price=80), kind("V100", price=20), activation_checkpointing=False)
    rows = dict(rows_of(found))
    assert rows["left out"].startswith("V100: the step takes ")
    assert rows["left out"].endswith(" without; 2 nodes of the pool would be idle")
    assert found.members is not None and found.members.eta is not None and found.members.eta_of_all is not None
    assert found.members.eta_of_all < found.members.eta and " of all members" in rows["a step"]
    assert found.num_nodes == 4 and found.cost is not None and found.seconds is not None
    assert found.cost.low == pytest.approx((2 * 80 + 2 * 20) * found.seconds.low / 3600)
    assert rows["cost"].endswith(" for 4 nodes, 2 of them idle")


def test_a_step_that_may_not_be_the_shortest_is_said_with_its_bound() -> None:
    found = planned(kind("H100"), kind("A100")).members
    assert found is not None and found.step_seconds is not None and found.bound_seconds == found.step_seconds
    assert "above the least" not in dict(members_rows(found, planned(kind("H100"), kind("A100")).placement))["a step"]
    bounded = replace(found, bound_seconds=found.step_seconds / 1.004)
    row = dict(members_rows(bounded, planned(kind("H100"), kind("A100")).placement))["a step"]
    assert " s, at most 0.40% above the least there is, eta " in row


def test_tokens_have_a_price_with_all_members_and_without_the_slow_ones() -> None:
    found = planned(kind("H100", price=80), kind("A100", price=40)).members
    assert found is not None and found.step_seconds is not None
    both, fast = found.prices
    assert (both.devices, fast.devices) == ("H100 and A100", "H100")
    assert both.per_billion_tokens == pytest.approx((160 + 80) / 3600 * found.step_seconds * 1e9 / (512 * 4096))
    unpriced = planned(kind("H100", price=80), kind("A100")).members
    assert unpriced is not None and unpriced.prices == ()
    row = dict(rows_of(planned(kind("H100", price=80), kind("V100", price=20))))["10^9 tokens"]
    assert row.count(" USD with H100") == 2


def test_time_is_a_range_around_what_devices_were_chosen_by() -> None:
    found = planned(kind("H100"), kind("A100"))
    assert found.members is not None and found.members.step_seconds and found.seconds is not None
    per_step = found.members.step_seconds * found.num_steps
    assert found.seconds.low < per_step < found.seconds.high
    assert "25% to 50% of the peak of NVIDIA H100" in found.speed.source
    slow = planned(kind("H100"), kind("A100", machines=MACHINES | {"network_gbps_per_node": 200}))
    assert slow.seconds is not None and slow.seconds.high > found.seconds.high
    assert slow.placement.num_ranks == found.placement.num_ranks
    assert slow.members is not None and "exchange by data sheets and network_gbps_per_node" in slow.members.source


def test_even_steps_wait_for_the_slowest() -> None:
    even, shared = planned(kind("H100"), kind("A100"), balance="even"), planned(kind("H100"), kind("A100"))
    assert even.members is not None and shared.members is not None
    assert even.members.eta and shared.members.eta and even.members.eta < 0.7 * shared.members.eta
    assert "as many sequences for each rank" in dict(rows_of(even))["layout"]


def test_a_speed_that_is_not_known_is_said_not_to_be() -> None:
    trained = config(precision="fp32", sequence_length=512)
    found = planned(kind("H100"), kind("V100"), trained=trained)
    rows = dict(rows_of(found, trained))
    assert found.seconds is None and found.placement.num_ranks == 32
    assert rows["allocation"] == (
        "not known before the start; not known: the speed of H100 is not, before training measures it"
    )


def test_who_recomputes_is_chosen_and_said() -> None:
    trained = config(model=MODEL | {"hidden_size": 2560, "num_layers": 32, "intermediate_size": 10240})
    found = planned(kind("A100-40G"), kind("A100-80G"), trained=trained)
    assert found.members is not None and found.seconds is not None
    members = [text for name, text in rows_of(found, trained) if name == "member"]
    assert ["recomputing activations" in text for text in members] == [True, False]
    fixed = planned(kind("A100-40G"), kind("A100-80G"), trained=trained, activation_checkpointing=False)
    assert not any(one.layout.activation_checkpointing for one in fixed.members.members) if fixed.members else False


def test_a_runner_up_says_who_recomputes() -> None:
    found = planned(kind("H100"), kind("V100"), trained=config(model=MODEL | {"num_layers": 24})).members
    assert found is not None and found.runner_up is not None
    assert found.runner_up.what == "H100 and V100 in ZeRO 2, V100 recomputing activations"


def test_what_does_not_fit_names_the_kind_and_what_to_change() -> None:
    trained = config(model=MODEL | {"hidden_size": 8192, "num_layers": 80, "intermediate_size": 28672})
    found = planned(kind("A100"), kind("L4"), trained=trained)
    assert found.fits is False
    assert "a rank on L4 needs " in describe_problem(found) and "GiB; " in describe_problem(found)


def test_unknown_memory_is_not_said_to_fit() -> None:
    found = planned(kind("H100"), kind("NOPE"))
    assert found.fits is None
    assert "of what is not known" in [text for name, text in rows_of(found) if name == "member"][1]


def test_passes_are_told_in_runs() -> None:
    assert describe_passes((8, 8, 8, 5, 1, 1)) == "3 x 8 + 5 + 2 x 1"


def test_a_record_of_conform_moves_the_time_and_not_the_choice(tmp_path: Path) -> None:
    path = conform_record(
        tmp_path / "conform.json",
        device="NVIDIA H100 80GB HBM3",
        kind="cuda",
        scale="accelerator-0.3B-bf16",
        speed=30_000.0,
        detail="0.1 s for 8 x 4,096 tokens, bf16, varlen",
    )
    assumed, measured = planned(kind("H100"), kind("A100")), planned(kind("H100", conform=path), kind("A100"))
    assert f"measured by concord conform: {path}" in measured.speed.source
    assert measured.placement == assumed.placement and measured.seconds != assumed.seconds


@pytest.mark.parametrize("seconds", [0.15, 5.0])
def test_from_the_same_store_plan_and_run_choose_the_same(tmp_path: Path, seconds: float) -> None:
    kinds = kind("H100"), kind("A100")
    _, placement = lay_out(ClusterConfig.model_validate({"pools": {"default": {"members": list(kinds)}}}), "default")
    keep_times(tmp_path, H100, 0.1, trained=config())
    keep_times(tmp_path, A100, seconds, trained=config())
    keep_link(tmp_path, A100, H100, num_ranks=32, num_hosts=4, alpha=1e-5, bandwidth=4e10)
    found = planned(*kinds, store=tmp_path)
    assert found.placement == settle_placement(placement, config(), vocab_size=32_000, store=tmp_path)
    assert found.placement.num_ranks == (32 if seconds < 1 else 16)
    rows = dict(rows_of(found))
    by = "the link measured in this store" if seconds < 1 else "data sheets"
    assert f"(passes measured in this store, exchange by {by}, none of it taken to be hidden)" in rows["a step"]
    assert rows["time"].endswith("(measured in this store)")


def test_numbers_that_are_assumed_are_said_to_be(tmp_path: Path) -> None:
    rows = dict(rows_of(planned(kind("H100"), kind("A100"))))
    assert "(assumed from data sheets: 37.5% of the peak of NVIDIA H100 80GB HBM3, 50.0% of" in rows["a step"]
    assert "; exchange by data sheets, none of it taken to be hidden)" in rows["a step"]
    keep_times(tmp_path, A100, 5.0, trained=config())
    found = planned(kind("H100"), kind("A100"), store=tmp_path)
    assert found.placement.num_ranks == 32
    assert ", as A100 were measured in this store and H100 were not; exchange" in dict(rows_of(found))["a step"]


def test_times_that_are_scaled_to_recomputation_are_said_to_be(tmp_path: Path) -> None:
    trained = config(model=MODEL | {"hidden_size": 2560, "num_layers": 32, "intermediate_size": 10240})
    for name in (A100, "NVIDIA A100-SXM4-80GB"):
        keep_times(tmp_path, name, 2.0, trained=trained)
    first = {"activation_checkpointing": True}
    found = planned(kind("A100-40G", **first), kind("A100-80G"), trained=trained, store=tmp_path, zero_stage=1)
    step = dict(rows_of(found, trained))["a step"]
    assert "measured in this store, of A100-40G with the other recomputation and scaled by FLOPs" in step


def test_cpus_that_were_measured_have_a_step_time_and_eta_in_the_plan(tmp_path: Path) -> None:
    own: list[dict[str, Any]] = [{}, {"emulated_seconds_per_sequence": 0.05}]
    kinds = [{"num_ranks": 1, "cpus_per_rank": 1} | keys for keys in own]
    settings = {"device": "cpu", "oversubscribe": True}
    cluster = ClusterConfig.model_validate({"pools": {"default": {"members": kinds} | settings}})
    _, placement = lay_out(cluster, "default")
    assert {host for one in placement.members for host in one.hosts} == {socket.gethostname()}
    unknown = planned(*kinds, trained=SMALL, store=tmp_path, **settings)
    assert unknown.members is not None and unknown.members.step_seconds is None and unknown.seconds is None
    for member in placement.members:
        given = {"threads": 1, "cpu_share": member.cpu_share, "emulated": member.emulated_seconds_per_sequence or 0.0}
        keep_cpu_times(tmp_path, 0.01 + given["emulated"], **given)
    found = planned(*kinds, trained=SMALL, store=tmp_path, **settings)
    assert found.placement == settle_placement(placement, SMALL, vocab_size=32_000, store=tmp_path)
    assert found.members is not None and found.members.step_seconds and found.members.eta and found.seconds is not None
    assert found.seconds.low == found.seconds.high == pytest.approx(found.members.step_seconds * found.num_steps)
    assert "(passes measured in this store, no exchange is reckoned)" in dict(rows_of(found, SMALL))["a step"]
    assert [text.split(":")[0] for name, text in rows_of(found, SMALL) if name == "member"] == ["member 1", "member 2"]


@pytest.mark.parametrize(("gres", "gpus"), [("gpu:4", 4), ("gpu:a100:4", 4), ("gpu", 1), ("nvme:2", 0)])
def test_gpus_that_slurm_is_asked_for_by_gres_are_counted(gres, gpus):
    launcher = {"kind": "slurm", "cpus_per_node": 64, "memory_gib_per_node": 400, "options": {"gres": gres}}
    machines = ClusterConfig.model_validate({"launcher": launcher, "pools": {"default": {"num_ranks": 1}}})
    nodes, _ = lay_out(machines, "default")
    assert [node.num_gpus for node in nodes] == [gpus]
