"""What ranks send each other in each stage, that a pool's keys of DeepSpeed's change none of it, and who waits."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.executor import Rank
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import trainer, trajectory, weights
from training.job import Job
from training.zero.communication import overlap_reductions
from training.zero.process_group import join_process_group, leave_process_group

Sent = Counter[tuple[str, str]]
"""Elements sent by collective and type, but for tensors of a few, such as norms."""

FEW = 64
CONSTANT = {"kind": "wsd", "num_warmup_steps": 0, "num_decay_steps": 0}
STEP = {"num_steps": 1, "global_batch_size": 4, "schedule": CONSTANT}
"""One step; with a micro-batch of one, two passes on each of two ranks."""


def note_sent(rank: Rank, jobs: list[Job]) -> list[tuple[Sent, set[str]]]:
    """Train each job; what the rank sent in its steps, and the functions of DeepSpeed's that are timed as waiting."""
    import deepspeed

    from training.zero.step_timing import COLLECTIVES

    join_process_group(rank, timeout_seconds=60)
    backend, noted = deepspeed.comm.comm.cdb, []
    for job in jobs:
        subject, sent = trainer(rank, job), Counter[tuple[str, str]]()

        def note(name: str, call: Callable[..., Any], sent: Sent = sent) -> Callable[..., Any]:
            def wrapper(*arguments: Any, **named: Any) -> Any:
                tensors = [value for value in (*arguments, *named.values()) if torch.is_tensor(value)]
                largest = max(tensors, key=torch.Tensor.numel)
                if largest.numel() > FEW:
                    sent[name, str(largest.dtype).removeprefix("torch.")] += largest.numel()
                return call(*arguments, **named)

            return wrapper

        for name in COLLECTIVES:
            setattr(backend, name, note(name, getattr(backend, name)))
        subject.run()
        optimizer: Any = subject.state.built.engine.optimizer
        timed = {name for name, value in vars(optimizer).items() if getattr(value, "__name__", "") == "wrapper"}
        if job.placement.zero_stage == 3:
            timed |= vars(optimizer.parameter_offload.param_coordinator).keys() & {"fetch_sub_module"}
        noted.append((sent, timed))
    leave_process_group()
    return noted


def test_gradients_are_sent_once_a_step_in_stage_1_and_once_a_pass_in_2_and_3(tmp_path: Path) -> None:
    to_owners = {"use_multi_rank_bucket_allreduce": False}
    kinds: list[tuple[int, str, dict[str, Any]]] = [
        (1, "fp32", {}),
        (1, "bf16", {}),
        (1, "bf16", to_owners),
        (2, "bf16", {}),
        (3, "bf16", {}),
    ]
    jobs = [
        tiny_job(
            tmp_path,
            tiny_config(precision=precision, **STEP),
            world_size=2,
            zero_stage=stage,
            name=f"{number}",
            micro_batch_size=1,
            deepspeed={"zero_optimization": zero},
        )
        for number, (stage, precision, zero) in enumerate(kinds)
    ]
    noted = run_ranks(note_sent, 2, jobs)[0]
    size = sum(values.numel() for values in weights(jobs[0], 1).values())
    in_fp32 = [Counter({name: n for (name, kind), n in sent.items() if kind == "float32"}) for sent, _ in noted]
    fp32, bf16, owned, every_pass, scattered = in_fp32
    assert fp32["all_reduce"] == bf16["all_reduce"] == size
    assert owned == {"reduce": size}
    assert every_pass == {"all_reduce": 2 * size}
    assert scattered.keys() == {"reduce_scatter_tensor"}
    assert 2 * size <= scattered["reduce_scatter_tensor"] <= 2.1 * size, "with padding"
    for sent, _ in noted[1:]:
        assert {name for name, kind in sent if kind == "bfloat16"} <= {"all_gather_into_tensor", "all_gather"}
    epilogue = "overlapping_partition_gradients_reduce_epilogue"
    assert all(timed == {"average_tensor", epilogue} for _, timed in noted[:-1])
    assert noted[-1][1] == {
        "_DeepSpeedZeroOptimizer_Stage3__reduce_and_partition_ipg_grads",
        epilogue,
        "fetch_sub_module",
    }


SMALL_BUCKETS = {"reduce_bucket_size": 1000, "overlap_comm": True}
PARTED = {"stage3_param_persistence_threshold": 0}
"""All parameters of the tiny model are sharded between passes, as those of a large one are."""

SECOND_COPY = PARTED | {"zero_hpz_partition_size": 2}

HARMLESS: dict[int, list[dict[str, Any]]] = {
    1: [SMALL_BUCKETS, {"contiguous_gradients": False}],
    2: [SMALL_BUCKETS | {"use_multi_rank_bucket_allreduce": False}, SMALL_BUCKETS | {"reduce_scatter": False}],
    3: [
        PARTED
        | SMALL_BUCKETS
        | {"stage3_prefetch_bucket_size": 0, "stage3_model_persistence_threshold": 100, "enable_sanity_checks": True},
        PARTED
        | {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "log_trace_cache_warnings": True}
        | {"stage3_use_all_reduce_for_fetch_params": True, "contiguous_gradients": False},
        PARTED | {"sub_group_size": 1000, "reduce_scatter": False, "stage3_allgather_sequential": True},
        SECOND_COPY,
    ],
}


def train_apart(rank: Rank, jobs: list[Job]) -> None:
    """Train one job after another, each with groups of ranks of its own."""
    from deepspeed.utils import groups

    join_process_group(rank, timeout_seconds=60)
    for job in jobs:
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
        trainer(rank, job).run()
    leave_process_group()


def test_the_keys_that_a_pool_may_set_change_no_number_that_is_made(tmp_path: Path) -> None:
    def job(stage: int, zero: dict[str, Any], name: str, *, num_steps: int = 3) -> Job:
        config = tiny_config(precision="bf16", num_steps=num_steps, schedule=CONSTANT)
        pool: dict[str, Any] = {"deepspeed": {"zero_optimization": zero}}
        return tiny_job(tmp_path, config, world_size=2, zero_stage=stage, name=name, **pool)

    jobs = {
        stage: [job(stage, zero, f"{stage}-{number}") for number, zero in enumerate([{}, *keys])]
        for stage, keys in HARMLESS.items()
    }
    begun, resumed = (job(3, SECOND_COPY, "resumed", num_steps=num_steps) for num_steps in (2, 3))
    all_jobs = [*(job for of_stage in jobs.values() for job in of_stage), begun, resumed]
    assert run_ranks(train_apart, 2, all_jobs) == [None] * 2
    assert trajectory(resumed) == trajectory(jobs[3][-1]), "no copy of the weights before they were loaded is used"
    for plain, *others in jobs.values():
        losses, expected = [loss for _, loss, _ in trajectory(plain)], weights(plain, 3)
        for other in others:
            assert [loss for _, loss, _ in trajectory(other)] == pytest.approx(losses, rel=1e-6)
            for name, values in weights(other, 3).items():
                torch.testing.assert_close(values, expected[name], rtol=0, atol=2e-6)


def test_each_key_that_a_pool_may_set_was_tried() -> None:
    from configs.deepspeed import ZeroOptimizationConfig

    tried = {key for of_stage in HARMLESS.values() for keys in of_stage for key in keys}
    assert tried == ZeroOptimizationConfig.model_fields.keys() - {"offload_optimizer"}


SLOW_SECONDS = 0.25


def train_beside_a_slow_rank(rank: Rank, jobs: list[Job]) -> list[list[float]]:
    """Train each job, with rank 1 slow in its own forward passes; each rank's own seconds in its quietest step."""
    from training.loop.step import Stepper
    from training.network.packed_lm import PackedLM

    run_step, forward, found = Stepper.run_step, PackedLM.forward, []

    def slow_forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if rank.index == 1:
            time.sleep(SLOW_SECONDS)
        return forward(self, *arguments, **named)

    def note_step(self: Any, *arguments: Any, **named: Any) -> Any:
        result = run_step(self, *arguments, **named)
        found.append(result.own_seconds)
        return result

    PackedLM.forward, Stepper.run_step = slow_forward, note_step  # type: ignore[method-assign]
    join_process_group(rank, timeout_seconds=60)
    quietest = []
    for job in jobs:
        found.clear()
        trainer(rank, job).run()
        quietest.append([min(column) for column in zip(*found[2:], strict=True)])
    leave_process_group()
    return quietest


def test_a_rank_that_waits_inside_a_pass_is_not_the_slow_one(tmp_path: Path) -> None:
    config = tiny_config(num_steps=6, global_batch_size=4, checkpoint_every_steps=6)
    jobs = [
        tiny_job(tmp_path, config, world_size=2, zero_stage=stage, name=f"{stage}", micro_batch_size=1)
        for stage in (2, 3)
    ]
    for waiting, slow in run_ranks(train_beside_a_slow_rank, 2, jobs)[0]:
        assert slow > 2 * SLOW_SECONDS
        assert waiting < slow - SLOW_SECONDS, "it waits for twice as long"


def test_reductions_to_owners_do_not_wait_for_the_gpu_and_what_they_read_is_kept() -> None:
    seen: list[Any] = []
    stream = object()
    optimizer = SimpleNamespace(
        overlap_comm=True, contiguous_gradients=True, reduction_stream=stream, average_tensor=seen.append
    )

    def allreduce_and_copy(bucket: str) -> None:
        seen.append((bucket, optimizer.overlap_comm))  # if it is on, DeepSpeed synchronises the device here

    optimizer.allreduce_and_copy = allreduce_and_copy
    overlap_reductions(optimizer)
    gradient = SimpleNamespace(record_stream=seen.append)
    optimizer.average_tensor(gradient)
    optimizer.allreduce_and_copy("bucket")
    assert seen == [stream, gradient, ("bucket", False)]
    assert optimizer.overlap_comm is True
