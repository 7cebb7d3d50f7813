"""Training on unlike ranks: the gradients, samples and losses of one process, whoever computes how much."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.executor import Rank
from tests.training.ranks import MIXTURE_OF_EXPERTS, run_ranks, tiny_config, tiny_job
from tests.training.trials import (
    first_gradient,
    lines,
    train_all,
    train_and_die,
    trainer,
    trajectory,
    weights,
)
from training.allocation.balance import Sharing
from training.allocation.known_links import Link
from training.allocation.known_times import PASS_TIMES, KnownTimes, RankType, Setting, join_speeds, speeds_of
from training.checkpoint.directory import read_record
from training.data.passes import PassPlan, Plans, make_plan
from training.job import Job
from training.speeds import DeviceSpeed
from training.zero.process_group import join_process_group, leave_process_group

WORLD = 3
MEMBERS = [0, 1, 1]
UNLIKE: dict[str, Any] = {
    "num_ranks": 1,
    "micro_batch_size": 8,
    "members": [{"num_ranks": 1}, {"num_ranks": 2, "emulated_seconds_per_sequence": 0.02}],
}
SIZES = [[3, 2, 1], [1], [7, 2]]
"""By rank, the sequences of its passes: a step of 16 that is as uneven as can be."""


def job_of(directory, name: str, *, stage: int = 1, config: Any = None, **pool: Any) -> Job:
    config = config or tiny_config(global_batch_size=16)
    return tiny_job(directory, config, world_size=WORLD, zero_stage=stage, name=name, **UNLIKE | pool)


def one_process(directory, config: Any, name: str = "alone") -> Job:
    return tiny_job(directory, config, world_size=1, zero_stage=0, name=name, micro_batch_size=16)


def use_plan(subject: Any, plan: PassPlan) -> None:
    """Have a trainer share all steps by one plan."""
    subject.balancer.plans = Plans(lambda _: plan)


def keep_gradients_of_a_plan(rank: Rank, jobs: list[Job], passes: list[list[int]], *, all_passes: bool) -> None:
    from training.allocation import initial

    join_process_group(rank, timeout_seconds=60)
    for job in jobs:
        subject = trainer(rank, job)
        equal = initial.has_collectives_in_passes(job, subject.state.built.traits) or all_passes
        use_plan(subject, make_plan(passes, equal_passes=equal))
        subject.run()
    leave_process_group()


def step_of(**changes: Any) -> Any:
    optimizer = {"learning_rate": 0.01, "max_gradient_norm": 1e9}
    schedule = {"kind": "cosine", "num_warmup_steps": 0}
    settings = {
        "validation": None,
        "global_batch_size": 16,
        "num_steps": 1,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    return tiny_config(**settings | changes)


def flat(gradient: dict[str, Any]) -> Any:
    return np.concatenate([gradient[name] for name in sorted(gradient)])


@pytest.mark.parametrize(
    "model", [None, MIXTURE_OF_EXPERTS | {"router_balance": 0.1, "router_z": 0.01, "output_z": 0.01}]
)
def test_uneven_passes_give_the_gradient_of_one_process_in_every_stage(tmp_path, model):
    config = step_of(**{"model": model} if model else {})
    jobs = [job_of(tmp_path, f"{stage}", stage=stage, config=config, balance="even") for stage in (0, 1, 2, 3)]
    second = [UNLIKE["members"][0], UNLIKE["members"][1] | {"activation_checkpointing": True}]
    jobs += [
        job_of(tmp_path, f"{stage}-one-kind-recomputes", stage=stage, config=config, balance="even", members=second)
        for stage in (1, 2)
    ]
    run_ranks(partial_plan, WORLD, jobs, members=MEMBERS)
    alone = one_process(tmp_path, config)
    run_ranks(train_all, 1, [alone])
    exact = flat(first_gradient(alone))
    errors = [np.linalg.norm(flat(first_gradient(job)) - exact) / np.linalg.norm(exact) for job in jobs]
    assert max(errors) < 1e-6, errors
    assert [lines(job)[0].loss for job in jobs] == pytest.approx([lines(alone)[0].loss] * len(jobs), rel=1e-6)
    assert [lines(job)[0].targets for job in jobs] == [lines(alone)[0].targets] * len(jobs)


def partial_plan(rank: Rank, jobs: list[Job]) -> None:
    keep_gradients_of_a_plan(rank, jobs, SIZES, all_passes=False)


def naive_plan(rank: Rank, job: Job) -> None:
    """Train by the mean over ranks of each rank's own mean, as who averages over ranks and passes does."""
    from training.loop import step as step_module
    from training.loop.step import run_pass as plain

    def run_pass(engine: Any, rows: Any, stopwatch: Any, *, emulated: float, divisor: int, step: Any) -> Any:
        assert int(rows.lengths.sum()), "no rank has a pass without samples: none has collectives"
        own = int(rows.lengths.sum()) * WORLD * len(SIZES[rank.index])
        return plain(engine, rows, stopwatch, emulated=emulated, divisor=own, step=step)

    step_module.run_pass = run_pass  # type: ignore[assignment]
    keep_gradients_of_a_plan(rank, [job], SIZES, all_passes=False)


def test_the_mean_of_the_ranks_means_is_another_gradient(tmp_path):
    config = step_of()
    job, alone = job_of(tmp_path, "naive", config=config, balance="even"), one_process(tmp_path, config)
    run_ranks(naive_plan, WORLD, job, members=MEMBERS)
    run_ranks(train_all, 1, [alone])
    exact = flat(first_gradient(alone))
    assert 0.05 < np.linalg.norm(flat(first_gradient(job)) - exact) / np.linalg.norm(exact) < 0.99


@pytest.mark.parametrize("stage", [1, 3])
def test_a_training_shared_by_speed_is_that_of_even_shares(tmp_path, stage):
    config = tiny_config(global_batch_size=16, validation={"max_share": 1.0})
    shared, even = (
        job_of(tmp_path, "speed", stage=stage, config=config),
        job_of(tmp_path, "even", stage=stage, config=config, balance="even"),
    )
    assert run_ranks(train_all, WORLD, [shared, even], members=MEMBERS) == [None] * WORLD
    assert [line.first_place for line in lines(shared)] == [line.first_place for line in lines(even)]
    assert [line.targets for line in lines(shared)] == [line.targets for line in lines(even)]
    assert [line.loss for line in lines(shared)] == pytest.approx([line.loss for line in lines(even)], rel=1e-5)
    held = [[line.validation.loss for line in lines(job) if line.validation] for job in (shared, even)]
    assert held[0] == pytest.approx(held[1], rel=1e-5) and held[0]
    speeds = read_record(shared.out / "checkpoints/step-00000006").speeds
    assert speeds is not None and speeds.device_of_rank == (0, 1, 1)
    slow, fast = speeds.devices[1].pass_seconds, speeds.devices[0].pass_seconds
    assert len(slow) == len(fast) == 8
    assert read_record(even.out / "checkpoints/step-00000006").speeds is None
    assert all(0 < line.eta <= 1 for job in (shared, even) for line in lines(job)[1:]), "no step is shorter than a pass"
    assert lines(shared)[0].eta is None
    shares = Sharing(speeds, equal_passes=stage == 3, overlaps=False).plan(16).sizes.sum(1)
    assert shares.sum() == 16
    notices = (shared.out / "notices.txt").read_text()
    assert "sequences are shared by speed, measured at the start: member 1: 1 rank with" in notices


def test_what_passes_take_is_measured_once_and_kept_in_the_store(tmp_path):
    first, second = job_of(tmp_path, "a"), job_of(tmp_path, "b")
    run_ranks(train_all, WORLD, [first, second], members=MEMBERS)
    assert len(list((tmp_path / PASS_TIMES).glob("*.json"))) == 3, "two types, and the link"
    found = [read_record(job.out / "checkpoints/step-00000006").speeds for job in (first, second)]
    assert found[0].devices == found[1].devices
    assert "measured at the start" in found[0].why and "kept in the store" in found[1].why
    (link,) = (tmp_path / PASS_TIMES).glob("link-3-ranks-1-hosts-*.json")
    assert Link.model_validate_json(link.read_text()).bytes_per_second > 1e6
    damaged = next((tmp_path / PASS_TIMES).glob("[0-9a-f]*.json"))
    damaged.write_text("{")
    third = job_of(tmp_path, "c")
    run_ranks(train_all, WORLD, [third], members=MEMBERS)
    assert "measured at the start" in read_record(third.out / "checkpoints/step-00000006").speeds.why


def test_a_store_that_cannot_keep_what_was_measured_is_told_and_not_fatal(tmp_path):
    job = job_of(tmp_path, "a", config=tiny_config(global_batch_size=16, num_steps=3, validation=None))
    (tmp_path / PASS_TIMES).write_text("a file where a directory should be")
    assert run_ranks(train_all, WORLD, [job], members=MEMBERS) == [None] * WORLD
    reason = f"measured at the start; not kept in the store: File exists ({tmp_path / PASS_TIMES})"
    assert f"sequences are shared by speed, {reason}: member 1: 1 rank with" in (job.out / "notices.txt").read_text()
    assert read_record(job.out / "checkpoints/step-00000003").speeds.why == reason


@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "bf16")])
def test_measuring_leaves_no_trace_in_the_weights(tmp_path, stage, precision):
    config = tiny_config(global_batch_size=16, num_steps=2, validation=None, precision=precision, ema={"decay": 0.9})
    jobs = [job_of(tmp_path, name, stage=stage, config=config) for name in ("measured", "known")]
    run_ranks(train_with_even_plan, WORLD, jobs, members=MEMBERS)
    assert trajectory(jobs[0]) == trajectory(jobs[1])
    first, second = (weights(job, 2) for job in jobs)
    assert all((first[name] == second[name]).all() for name in first)


def train_with_even_plan(rank: Rank, jobs: list[Job]) -> None:
    keep_gradients_of_a_plan(rank, jobs, [[6], [5], [5]], all_passes=False)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_killed_training_goes_on_by_the_same_shares_and_onto_another_mix(tmp_path, stage):
    config = tiny_config(global_batch_size=16)
    calm, job = (
        job_of(tmp_path, "calm", stage=stage, config=config),
        job_of(tmp_path, "out", stage=stage, config=config),
    )
    run_ranks(train_all, WORLD, [calm], members=MEMBERS)
    run_ranks(train_and_die, WORLD, job, 3, members=MEMBERS)
    before = read_record(job.out / "checkpoints/step-00000002").speeds
    run_ranks(train_all, WORLD, [job], members=MEMBERS)
    resumed = read_record(job.out / "checkpoints/step-00000004").speeds
    assert (resumed.devices, resumed.slowdown, resumed.version) == (before.devices, before.slowdown, before.version)
    assert resumed.why == "as when the checkpoint was written"
    assert [line.loss for line in lines(job)] == pytest.approx([line.loss for line in lines(calm)], rel=1e-5)
    other = {"members": [{"num_ranks": 1, "emulated_seconds_per_sequence": 0.01}, {"num_ranks": 1}]}
    moved = tiny_job(tmp_path, config, world_size=2, zero_stage=stage, name="moved", micro_batch_size=8, **other)
    run_ranks(train_and_die, WORLD, replace(job_of(tmp_path, "moved", stage=stage, config=config)), 5, members=MEMBERS)
    run_ranks(train_all, 2, [moved], members=[0, 1])
    assert [line.first_place for line in lines(moved)] == [line.first_place for line in lines(calm)]
    assert [line.loss for line in lines(moved)] == pytest.approx([line.loss for line in lines(calm)], rel=1e-5)
    after = read_record(moved.out / "checkpoints/step-00000006").speeds
    assert after.version > 1 and len(after.device_of_rank) == 2


def test_ranks_that_reckon_differently_are_told_before_they_hang(tmp_path):
    config = tiny_config(global_batch_size=16, validation=None)
    job = job_of(tmp_path, "differ", stage=3, config=config, balance="even")
    found = run_ranks(train_with_own_plan, WORLD, job, members=MEMBERS)
    assert all("the ranks reckon differently" in text for text in found), found


def train_with_own_plan(rank: Rank, job: Job) -> str:
    join_process_group(rank, timeout_seconds=60)
    subject = trainer(rank, job)
    use_plan(subject, make_plan([[6], [5], [5 - rank.index % 2, rank.index % 2]], equal_passes=True))
    try:
        subject.run()
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return ""


@pytest.mark.parametrize("changed", [{"micro_batch_size": 2}, {"members": [{"num_ranks": 1}, {"num_ranks": 2}]}])
def test_a_resumed_training_keeps_no_speeds_of_other_passes(tmp_path, changed):
    config = tiny_config(global_batch_size=16)
    run_ranks(train_and_die, WORLD, job_of(tmp_path, "out", config=config), 3, members=MEMBERS)
    job = job_of(tmp_path, "out", config=config, **changed)
    run_ranks(train_all, WORLD, [job], members=MEMBERS)
    speeds = read_record(job.out / "checkpoints/step-00000004").speeds
    assert speeds.version == 2
    if "micro_batch_size" in changed:
        assert max(len(one.pass_seconds) for one in speeds.devices) == 2, "as many as the pool allows now"
    else:
        assert len({one.key for one in speeds.devices}) == 1, "nothing is emulated any more"


def test_a_rank_on_another_host_is_as_fast_as_its_type():
    setting = Setting(
        model="", attention="", recomputes=False, compiled=False, gathers=False, most=1, device="H100", host="",
        threads=0, cpu_share=0, cores=0, emulated=0, versions=(),
    )  # fmt: skip
    ranks = [RankType("H100", setting)] * 3
    known = KnownTimes(
        setting=setting,
        speed=DeviceSpeed(kind="H100", device="H100", pass_seconds=(1.0,), key=setting.key),
        communication=0,
    )
    saved = join_speeds(ranks, {ranks[0]: known}, None, hosts=("a", "a", "b"), step=3, version=2)
    saved = saved.model_copy(update={"slowdown": (1.0, 1.5, 2.0)})
    found = speeds_of(saved, ranks, ("a", "a", "c"))
    assert found is not None and found.slowdown == (1.0, 1.5, 1.0) and found.hosts == ("a", "a", "c")
    other = [RankType("H100", setting.model_copy(update={"most": 2}))] * 3
    assert speeds_of(saved, other, ("a", "a", "b")) is None


@pytest.mark.parametrize("damage", ["[3.0,2.0,1.0]", "[0,0.1]", "[]", "[1e400]"])
def test_a_file_with_times_that_cannot_be_is_none(tmp_path, damage):
    content = '{"kind":"","device":"cpu","pass_seconds":%s}'
    assert DeviceSpeed.model_validate_json(content % "[0.1,0.1]")
    with pytest.raises(ValidationError):
        DeviceSpeed.model_validate_json(content % damage)


def test_a_link_between_no_devices_is_none():
    link = '{"devices":%s,"num_ranks":2,"num_hosts":1,"alpha_seconds":1e-3,"bytes_per_second":1e9}'
    assert Link.model_validate_json(link % '["x86_64 CPU"]')
    with pytest.raises(ValidationError):
        Link.model_validate_json(link % "[]")
