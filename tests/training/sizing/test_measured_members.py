"""What the store knows of passes and links decides who trains, and is taken only where it is of the same."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.host.limits import cores_of_time
from cluster.machines import GIB, Node
from cluster.members import place_pool
from cluster.placement import Placement
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from tests.training.ranks import VOCAB, run_ranks, tiny_config, tiny_job
from tests.training.sizing.test_members import MODEL, choose, config, unlike
from tests.training.trials import train_all
from training.allocation.known_links import Link, find_link
from training.allocation.known_times import (
    PASS_TIMES,
    KnownTimes,
    Setting,
    describe_model,
    find_pass_seconds,
    keep,
    read_store_times,
)
from training.sizing.members import MembersChoice, choose_members
from training.sizing.model_size import ModelSize
from training.sizing.recipe_size import find_parameters, measure_model
from training.sizing.traffic import count_collectives
from training.speeds import DeviceSpeed

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"
SMALL = config(
    model=MODEL | {"hidden_size": 64, "num_layers": 2}, sequence_length=128, precision="fp32", global_batch_size=64
)


def keep_times(
    store: Path, device: str, seconds: float, *, trained: TrainConfig, age: int = 0, sizes: int = 16, **changes: Any
) -> None:
    """Keep what passes of 1 to `sizes` sequences took, `seconds` each sequence, in a file that is so many days old."""
    told: dict[str, Any] = {
        "model": describe_model(trained, vocab_size=32_000),
        "attention": "varlen",
        "recomputes": False,
        "compiled": False,
        "gathers": False,
        "most": sizes,
        "device": device,
        "host": "",
        "threads": 0,
        "cpu_share": 0.0,
        "cores": 0.0,
        "emulated": 0.0,
        "versions": ("1", "2", "3"),
    }
    setting = Setting.model_validate(told | changes)
    speed = DeviceSpeed(kind="of yore", device=device, pass_seconds=tuple(seconds * n for n in range(1, sizes + 1)))
    keep(store, f"{setting.key}.json", KnownTimes(setting=setting, speed=speed, communication=0.0))
    os.utime(store / PASS_TIMES / f"{setting.key}.json", (10**9 - 86_400 * age,) * 2)


def keep_link(store: Path, *devices: str, num_ranks: int, num_hosts: int, alpha: float, bandwidth: float) -> None:
    here = tuple(socket.gethostname() if one == 0 else f"host-{one}" for one in range(num_hosts))
    link = Link(
        devices=devices,
        hosts=here if devices[0].endswith(" CPU") else (),
        num_ranks=num_ranks,
        num_hosts=num_hosts,
        alpha_seconds=alpha,
        bytes_per_second=bandwidth,
    )
    keep(store, link.file_name, link)


def this_machine(*own: dict[str, Any], host: str = "") -> Placement:
    """A pool of two ranks of each member on the CPUs of one machine."""
    members = [{"num_ranks": 2, "cpus_per_rank": 2} | keys for keys in own]
    pool = PoolConfig.model_validate({"members": members, "device": "cpu"})
    nodes = [[Node(host or socket.gethostname(), 16, 0, 32 * GIB, id="here")] for _ in own]
    return place_pool(pool, nodes, wandb=None)


def keep_cpu_times(store: Path, seconds: float, *, emulated: float = 0.0, **changes: Any) -> None:
    of = {"host": socket.gethostname(), "threads": 2, "cpu_share": 2.0, "attention": "sdpa", "emulated": emulated}
    keep_times(store, "x86_64 CPU", seconds, trained=SMALL, **of | {"sizes": 8} | changes)


def same_choice(one: MembersChoice, other: MembersChoice) -> bool:
    return (one.placement, one.option) == (other.placement, other.option)


def test_measured_times_decide_who_takes_part(tmp_path):
    assert choose(unlike("H100", "A100")).placement.num_ranks == 32
    keep_times(tmp_path, H100, 0.1, trained=config())
    keep_times(tmp_path, A100, 5.0, trained=config())
    found = choose(unlike("H100", "A100"), store=tmp_path)
    assert found.placement.num_ranks == 16 and found.placement.members[1].left_out.startswith("the step takes ")
    assert found.option is not None and found.option.candidate.devices[0].pass_seconds[:2] == (0.1, 0.2)
    keep_times(tmp_path, A100, 0.15, trained=config(), age=-1)
    assert choose(unlike("H100", "A100"), store=tmp_path).placement.num_ranks == 32


def test_all_members_must_be_measured_else_all_are_assumed(tmp_path):
    keep_times(tmp_path, A100, 50.0, trained=config())
    assumed = choose(unlike("H100", "A100"))
    assert same_choice(choose(unlike("H100", "A100"), store=tmp_path), assumed)
    assert same_choice(choose(unlike("H100", "A100"), store=tmp_path / "none"), assumed)


@pytest.mark.parametrize(
    "other",
    [
        {"compiled": True},
        {"emulated": 0.5},
        {"model": describe_model(config(sequence_length=2048), vocab_size=32_000)},
        {"model": describe_model(config(), vocab_size=16_000)},
        {"device": "NVIDIA A100-SXM4-80GB"},
    ],
)
def test_times_of_other_passes_say_nothing(tmp_path, other: dict[str, Any]):
    keep_times(tmp_path, H100, 0.1, trained=config())
    keep_times(tmp_path, **{"device": A100, "seconds": 5.0, "trained": config()} | other)
    assert same_choice(choose(unlike("H100", "A100-40G"), store=tmp_path), choose(unlike("H100", "A100-40G")))


def test_attention_that_the_pool_names_must_be_that_of_the_times(tmp_path):
    keep_times(tmp_path, H100, 0.1, trained=config())
    keep_times(tmp_path, A100, 5.0, trained=config())
    for attention, num_ranks in (("auto", 16), ("varlen", 16), ("sdpa", 32)):
        placement = unlike("H100", "A100", attention=attention)
        assert choose(placement, store=tmp_path).placement.num_ranks == num_ranks


def test_of_several_files_that_with_most_sizes_is_taken_and_then_the_newest(tmp_path):
    def known(most: int, **keys: Any) -> tuple[float, ...] | None:
        (member, _), model = unlike("H100", "A100", **keys).members, describe_model(config(), vocab_size=32_000)
        return find_pass_seconds(read_store_times(tmp_path), member, model=model, most=most, gathers=False)

    assert known(4) is None
    keep_times(tmp_path, H100, 3.0, trained=config(), sizes=4, age=9)
    keep_times(tmp_path, H100, 2.0, trained=config(), sizes=4, age=5, versions=("9",))
    keep_times(tmp_path, H100, 1.0, trained=config(), sizes=2, age=1)
    assert known(1) == (1.0,) and known(2) == (1.0, 2.0) and known(6) == (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
    (tmp_path / PASS_TIMES / "torn.json").write_text('{"setting"')
    assert known(4) == (2.0, 4.0, 6.0, 8.0)
    assert known(8, activation_checkpointing=True) is None


def test_no_pass_is_larger_than_the_memory_holds_or_held_when_it_was_measured(tmp_path):
    limit = choose(unlike("H100", "A100")).placement.members[0].micro_batch_size
    for name in (H100, A100):
        keep_times(tmp_path, name, 0.1, trained=config(), sizes=64 if name == H100 else 1, most=64)
    found = choose(unlike("H100", "A100", zero_stage=1), store=tmp_path)
    assert found.option is not None
    fast, slow = found.option.candidate.devices
    assert (
        len(fast.pass_seconds) == limit == found.placement.members[0].micro_batch_size and len(slow.pass_seconds) == 1
    )
    assert found.placement.members[1].micro_batch_size > 1, "more is tried when training measures again"


def test_stage_3_has_times_of_its_own_where_all_were_measured_there(tmp_path):
    for gathers, seconds in ((False, 0.1), (True, 0.2)):
        keep_times(tmp_path, H100, seconds, trained=config(), gathers=gathers)
    keep_times(tmp_path, A100, 0.1, trained=config())
    placement = unlike("H100", "A100", zero_stage=3)
    before = choose(placement, store=tmp_path).option
    keep_times(tmp_path, A100, 0.3, trained=config(), gathers=True)
    after = choose(placement, store=tmp_path).option
    assert before is not None and after is not None
    assert [one.pass_seconds[0] for one in before.candidate.devices] == [0.1, 0.1]
    assert [one.pass_seconds[0] for one in after.candidate.devices] == [0.2, 0.3]


def test_of_cpus_that_were_measured_the_slow_ones_are_left_out(tmp_path):
    placement = this_machine({}, {"emulated_seconds_per_sequence": 9.0})
    assert choose(placement, SMALL).option is None
    keep_cpu_times(tmp_path, 0.01)
    assert choose(placement, SMALL, store=tmp_path).option is None
    keep_cpu_times(tmp_path, 9.01, emulated=9.0)
    found = choose(placement, SMALL, store=tmp_path)
    assert found.option is not None and found.option.seconds == pytest.approx(64 * 0.01 / 2)
    keep_link(tmp_path, "x86_64 CPU", num_ranks=4, num_hosts=1, alpha=0.002, bandwidth=1e9)
    found = choose(placement, SMALL, store=tmp_path)
    assert found.placement.num_ranks == 2 and found.placement.members[1].left_out.startswith("the step takes ")
    keep_cpu_times(tmp_path, 0.015, emulated=9.0, age=-1)
    shared = choose(placement, SMALL, store=tmp_path)
    assert shared.placement.num_ranks == 4 and shared.option is not None and 0.3 < shared.option.eta < 1.0


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"threads": 1}, {"cpu_share": 1.0}])
def test_cpus_of_another_machine_or_with_other_threads_say_nothing(tmp_path, change: dict[str, Any]):
    keep_cpu_times(tmp_path, 0.01, **change)
    assert choose(this_machine({}, {}), SMALL, store=tmp_path).option is None
    keep_cpu_times(tmp_path, 0.01)
    assert choose(this_machine({}, {}), SMALL, store=tmp_path).option is not None
    assert choose(this_machine({}, {}, host="node-0"), SMALL, store=tmp_path).option is None


def test_of_several_machines_of_a_kind_the_slowest_that_was_measured_counts(tmp_path):
    (member, _), model = this_machine({}, {}).members, describe_model(SMALL, vocab_size=32_000)
    for host, seconds, sizes in (("a", 1.0, 4), ("b", 2.0, 2)):
        keep_cpu_times(tmp_path, seconds, host=host, sizes=sizes, most=8)

    def of(*hosts: str) -> tuple[float, ...] | None:
        own = replace(member, hosts=hosts)
        return find_pass_seconds(read_store_times(tmp_path), own, model=model, most=8, gathers=False)

    assert of("a") == (1.0, 2.0, 3.0, 4.0) and of("a", "b", "never seen") == (2.0, 4.0) and of() is None


def test_a_slow_link_between_two_kinds_leaves_one_out(tmp_path):
    keep_link(tmp_path, A100, H100, num_ranks=32, num_hosts=4, alpha=1e-5, bandwidth=4e10)
    assert choose(unlike("H100", "A100"), store=tmp_path).placement.num_ranks == 32
    keep_link(tmp_path, A100, H100, num_ranks=32, num_hosts=4, alpha=1e-5, bandwidth=1e8)
    found = choose(unlike("H100", "A100"), store=tmp_path)
    assert found.placement.num_ranks == 16 and found.placement.members[1].left_out


def test_a_link_is_that_of_the_same_devices_and_of_about_as_many_ranks(tmp_path):
    keep_link(tmp_path, A100, H100, num_ranks=4, num_hosts=2, alpha=1.0, bandwidth=1.0)
    keep_link(tmp_path, A100, H100, num_ranks=24, num_hosts=3, alpha=2.0, bandwidth=1.0)
    keep_link(tmp_path, A100, H100, num_ranks=32, num_hosts=1, alpha=3.0, bandwidth=1.0)
    keep_link(tmp_path, H100, num_ranks=16, num_hosts=2, alpha=4.0, bandwidth=1.0)
    known, both = read_store_times(tmp_path), unlike("H100", "A100").members

    def alpha(*members: Placement, one_machine: bool = False) -> float | None:
        link = find_link(known.links, members, one_machine=one_machine)
        return None if link is None else link.alpha_seconds

    assert alpha(*both) == 2.0 and alpha(*both, one_machine=True) == 3.0
    assert alpha(both[0]) == 4.0 and alpha(both[1]) is None
    assert alpha(*unlike("H100", "L4").members) is None


def test_on_cpus_exchange_counts_where_the_link_was_measured(tmp_path):
    keep_cpu_times(tmp_path, 0.01)
    placement = this_machine({}, {"num_ranks": 3})
    alone = choose(placement, SMALL, store=tmp_path).option
    keep_link(tmp_path, "x86_64 CPU", num_ranks=5, num_hosts=1, alpha=0.005, bandwidth=1e9)
    linked = choose(placement, SMALL, store=tmp_path).option
    assert alone is not None and linked is not None
    assert linked.candidate.step_seconds > 2 * 0.005 and alone.candidate.step_seconds == 0.0
    keep_link(tmp_path, "x86_64 CPU", num_ranks=5, num_hosts=1, alpha=10.0, bandwidth=1e9)
    assert choose(placement, SMALL, store=tmp_path).placement.num_ranks == 2  # fewer rounds of a ring


@pytest.mark.parametrize("pool", [{"balance": "even"}, {"deterministic": True}])
def test_even_passes_larger_than_those_measured_take_more_in_proportion(tmp_path: Path, pool: dict[str, Any]) -> None:
    for device in (H100, A100):
        keep_times(tmp_path, device, 2.0, trained=config(), sizes=2)
    found = choose(unlike("H100", "A100", micro_batch_size=3, **pool), config(global_batch_size=96), store=tmp_path)
    assert found.placement.micro_batch_size == 3 and found.option is not None
    assert found.option.allocation.shares[0].seconds == pytest.approx(3 * 2.0)


def test_a_link_says_nothing_of_cpus_that_were_not_measured(tmp_path: Path) -> None:
    keep_link(tmp_path, "x86_64 CPU", num_ranks=4, num_hosts=1, alpha=9.0, bandwidth=1e9)
    emulated = ({"emulated_seconds_per_sequence": 0.02}, {"emulated_seconds_per_sequence": 0.08})
    assert choose(this_machine(*emulated), SMALL, store=tmp_path).placement.num_ranks == 4


def test_a_link_of_other_machines_cpus_is_none_of_these(tmp_path: Path) -> None:
    found = Link(
        devices=("x86_64 CPU",), num_ranks=4, num_hosts=1, hosts=("elsewhere",), alpha_seconds=9.0, bytes_per_second=1e9
    )
    here = found.model_copy(update={"hosts": (socket.gethostname(),)})
    assert found.file_name != here.file_name
    members = this_machine({}, {}).members
    assert find_link((found,), members, one_machine=True) is None
    assert find_link((found, here), members, one_machine=True) == here


@pytest.mark.parametrize(
    ("stage", "counts"), [(0, (0, 3, 0)), (1, (0, 70, 3)), (2, (70, 0, 3)), (3, (2 * 17 + 70, 0, 0))]
)
def test_collectives_are_counted_by_bucket_and_layer(stage: int, counts: tuple[int, int, int]):
    found = find_parameters(config(), vocab_size=32_000)
    size: ModelSize = measure_model(found, config())
    placement = replace(unlike("H100", "A100", zero_stage=stage).members[0], num_ranks=32)
    zero = placement.deepspeed.zero_optimization.model_copy(update={"reduce_bucket_size": 16_000_000})
    placement = replace(placement, deepspeed=placement.deepspeed.model_copy(update={"zero_optimization": zero}))
    assert size.num_trained == 1_104_218_112
    number = count_collectives(size, placement)
    assert (number.per_pass, number.gradients_per_step, number.weights_per_step) == counts


def test_times_of_the_other_recomputation_are_scaled_by_the_flops(tmp_path: Path) -> None:
    for device in (H100, A100):
        keep_times(tmp_path, device, 2.0, trained=config(), sizes=4)
    again = choose(unlike("H100", "A100", activation_checkpointing=True), store=tmp_path).job.measured
    plain = choose(unlike("H100", "A100"), store=tmp_path).job.measured
    assert plain is not None and again is not None
    assert not plain[0].is_scaled and again[0].is_scaled and plain[0].seconds[4] == 10.0
    ratios = {round(own / (2.0 * size), 6) for size, own in enumerate(again[0].seconds, 1)}
    assert len(again[0].seconds) > 4 and len(ratios) == 1 and 1.25 < ratios.pop() < 4 / 3
    keep_times(tmp_path, H100, 9.0, trained=config(), recomputes=True)
    measured = choose(unlike("H100", "A100", activation_checkpointing=True), store=tmp_path).job.measured
    assert measured is not None and measured[0].seconds[0] == 9.0 and measured[1].is_scaled


def test_exact_times_of_the_other_passes_come_before_scaled_ones_and_the_plan_goes_by_them(tmp_path: Path) -> None:
    for device in (H100, A100):
        keep_times(tmp_path, device, 2.0, trained=config())
        keep_times(tmp_path, device, 5.0, trained=config(), recomputes=True, gathers=True)
    found = choose(unlike("H100", "A100", zero_stage=3, activation_checkpointing=False), store=tmp_path)
    gathering = found.job.measured_gathering
    assert gathering is not None and gathering[0].seconds[0] == 2.0 and not gathering[0].is_scaled


def test_what_is_emulated_does_not_grow_with_the_flops(tmp_path: Path) -> None:
    keep_cpu_times(tmp_path, 0.5, emulated=0.1)
    own = {"emulated_seconds_per_sequence": 0.1, "activation_checkpointing": True}
    found = choose(this_machine(own, own), SMALL, store=tmp_path).job.measured
    assert found is not None and 0.5 + 0.2 * 0.4 < found[0].seconds[0] < 0.1 + 0.4 * 4 / 3


def test_what_a_training_measures_is_what_the_next_is_chosen_by(tmp_path):
    trained = tiny_config(global_batch_size=16, num_steps=2, validation=None)
    members = [{"num_ranks": 1}, {"num_ranks": 1, "emulated_seconds_per_sequence": 0.02}]
    job = tiny_job(tmp_path, trained, world_size=2, zero_stage=1, micro_batch_size=8, members=members)
    here = tuple(replace(one, hosts=(socket.gethostname(),)) for one in job.placement.members)
    model = find_parameters(trained, vocab_size=VOCAB)
    given = (model, measure_model(model, trained), trained, replace(job.placement, members=here))
    assert choose_members(*given, store=tmp_path).job.measured is None
    assert run_ranks(train_all, 2, [job], members=[0, 1]) == [None, None]
    found = choose_members(*given, store=tmp_path)
    assert found.option is not None and found.job.measured is not None
    fast, slow = (found.job.measured[number].seconds for number in (0, 1))
    assert len(fast) == len(slow) == 8 and slow[0] - fast[0] > 0.015
    (link,), kept = found.job.times.links, found.job.times.passes
    assert link.num_ranks == 2 and link.hosts == (socket.gethostname(),)
    assert {one.setting.cores for one in kept} == {cores_of_time()}, "under another quota they are measured anew"
    alone = found.option.candidate.num_ranks == 1
    assert alone or found.option.candidate.step_seconds > found.job.times.links[0].alpha_seconds
