"""A checkpoint of any world size, ZeRO stage and kind loads into any other: every number, bit for bit."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import UserError
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, put_together, state_held, state_on_disk, train_all, trajectory, weights
from training.checkpoint.rollbacks import add_rollback
from training.records import Rollback

STEPS = 4
SMALL = {
    "architecture": "qwen3",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_layers": 2,
    "num_attention_heads": 3,
    "overrides": {"head_dim": 2},  # norms of two elements: fewer than ranks
}


@dataclass(frozen=True)
class Kind:
    """How a checkpoint is written: the layout and what is trained."""

    world_size: int
    stage: int
    precision: str = "bf16"
    pool: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    def job(self, directory: Path, *, num_steps: int = STEPS, name: str = "out"):
        settings = {"model": {**SMALL, "tie_word_embeddings": True}, "checkpoint_every_steps": 2} | self.changes
        config = tiny_config(precision=self.precision, num_steps=num_steps, **settings)
        return tiny_job(directory, config, world_size=self.world_size, zero_stage=self.stage, name=name, **self.pool)


UNTIED = {"model": {**SMALL, "tie_word_embeddings": False}}
FROZEN = {"freeze": ["model.layers.0.*", "model.embed_tokens.weight"]}
AVERAGED = {"ema": {"decay": 0.9}}
MUON = {"optimizer": {"learning_rate": 0.01, "kind": "muon"}}

SAVED = {
    "plain": Kind(2, 1),
    "three ranks of stage 3": Kind(3, 3),
    "fp32 without ZeRO": Kind(2, 0, "fp32"),
    "untied": Kind(2, 2, changes=UNTIED),
    "frozen": Kind(2, 1, changes=FROZEN),
    "frozen in stage 3": Kind(2, 3, changes=FROZEN),
    "Muon": Kind(2, 2, changes=MUON),
    "Muon in stage 3": Kind(3, 3, changes=MUON),
    "averaged": Kind(2, 2, changes=AVERAGED | FROZEN),
    "averaged in stage 3": Kind(3, 3, changes=AVERAGED | MUON),
    "offloaded": Kind(2, 2, pool={"offload_optimizer": True}),
}
INTO = [(1, 0), (2, 1), (3, 2), (2, 3)]


OFFLOADS = (
    pytest.mark.skipif(not shutil.which("c++"), reason="CPUAdam must be compiled, and there is no C++ compiler"),
    pytest.mark.timeout(1800),  # the first start compiles it, which takes minutes
)


@pytest.fixture(scope="module", params=[pytest.param(k, marks=OFFLOADS if k == "offloaded" else ()) for k in SAVED])
def saved(request, tmp_path_factory):
    """A checkpoint of each kind, and its kind."""
    kind, directory = SAVED[request.param], tmp_path_factory.mktemp("saved")
    job = kind.job(directory)
    assert run_ranks(train_all, kind.world_size, [job]) == [None] * kind.world_size
    return kind, job


def test_every_number_survives_into_other_layouts(saved, tmp_path):
    kind, job = saved
    before = state_on_disk(job.out / "checkpoints" / f"step-{STEPS:08d}")
    moments = {"exp_avg", "exp_avg_sq"} | ({"momentum_buffer"} if "optimizer" in kind.changes else set())
    moments |= {"ema"} if "ema" in kind.changes else set()
    assert before.keys() == {"master", *moments, *(["frozen"] if "freeze" in kind.changes else [])}
    for world_size, stage in INTO:
        into = Kind(world_size, stage, kind.precision, changes=kind.changes).job(tmp_path, name=f"{world_size}-{stage}")
        shutil.copytree(job.out / "checkpoints", into.out / "checkpoints")
        held = run_ranks(state_held, world_size, into)
        after = put_together([piece for pieces in held for piece in pieces])
        assert after.keys() == before.keys()
        for what in before:
            assert after[what].keys() == before[what].keys()
            for name, values in before[what].items():
                np.testing.assert_array_equal(after[what][name], values, err_msg=f"{what} {name} {world_size} {stage}")


def test_a_frozen_parameter_stays_as_it_was(saved):
    kind, job = saved
    if "freeze" not in kind.changes:
        pytest.skip("nothing is frozen")
    first, last = weights(job, 2), weights(job, STEPS)
    same = {name for name in first if (first[name] == last[name]).all()}
    assert same == {name for name in first if name.startswith(("model.layers.0.", "model.embed"))}


@pytest.mark.parametrize("changes", [{}, MUON], ids=["AdamW", "Muon"])
def test_stages_and_world_sizes_train_alike(tmp_path, changes):
    reference = None
    for world_size, stage in INTO:
        kind = Kind(world_size, stage, "fp32", changes=changes)
        job = kind.job(tmp_path, name=f"{world_size}-{stage}")
        assert run_ranks(train_all, world_size, [job]) == [None] * world_size
        losses = [line.loss for line in lines(job)]
        reference = reference or losses
        assert losses == pytest.approx(reference, rel=1e-5)


@OFFLOADS[0]
@OFFLOADS[1]
def test_offloaded_training_follows_the_other(tmp_path):
    plain, offloaded = Kind(1, 2, "fp32"), Kind(1, 2, "fp32", pool={"offload_optimizer": True})
    jobs = [plain.job(tmp_path, name="plain"), offloaded.job(tmp_path, name="offloaded")]
    assert run_ranks(train_all, 1, jobs) == [None]
    assert [line.loss for line in lines(jobs[1])] == pytest.approx([line.loss for line in lines(jobs[0])], rel=1e-5)


def test_activation_checkpointing_changes_no_number(tmp_path):
    plain, saving = Kind(2, 1), Kind(2, 1, pool={"activation_checkpointing": True})
    jobs = [plain.job(tmp_path, name="plain"), saving.job(tmp_path, name="saving")]
    assert run_ranks(train_all, 2, jobs) == [None, None]
    assert trajectory(jobs[0]) == trajectory(jobs[1])


def continued(kind: Kind, directory: Path, origin: Path, *, num_steps: int, **changes: Any):
    start = {"init_from": {"path": str(origin), "mode": "continue"}}
    return Kind(kind.world_size, kind.stage, "fp32", changes=start | changes).job(
        directory, num_steps=num_steps, name="continued"
    )


def test_a_continued_training_is_the_longer_one(tmp_path):
    schedule = {"schedule": {"kind": "wsd", "num_warmup_steps": 1, "num_decay_steps": 0}}
    kind = Kind(2, 1, "fp32", changes=schedule)
    whole, half = kind.job(tmp_path, num_steps=8, name="whole"), kind.job(tmp_path, num_steps=4, name="half")
    assert run_ranks(train_all, 2, [whole, half]) == [None, None]
    rest = continued(kind, tmp_path, half.out / "checkpoints" / "step-00000004", num_steps=8, **schedule)
    assert run_ranks(train_all, 2, [rest]) == [None, None]
    assert trajectory(half) + trajectory(rest) == trajectory(whole)
    assert lines(rest)[-1].num_tokens == lines(whole)[-1].num_tokens
    for name, tensor in weights(rest, 8).items():
        assert (tensor == weights(whole, 8)[name]).all()


def refusal(rank, job) -> str:
    from training.loop.trainer import train_rank

    try:
        train_rank(rank, job)
    except UserError as error:
        return str(error)
    return ""


def test_a_training_on_another_order_is_not_continued(tmp_path):
    kind = Kind(1, 1, "fp32")
    origin = kind.job(tmp_path)
    assert run_ranks(train_all, 1, [origin]) == [None]
    place = origin.out / "checkpoints" / "step-00000004"
    (said,) = run_ranks(refusal, 1, continued(kind, tmp_path, place, num_steps=8, seed=5))
    assert "seed" in said
    assert "mode: weights" in said
    (said,) = run_ranks(refusal, 1, continued(kind, tmp_path, place, num_steps=4))
    assert "it must be greater than 4" in said


def test_a_rollback_to_the_start_that_was_killed_starts_from_the_given_weights(tmp_path):
    kind = Kind(1, 1, "fp32")
    origin = kind.job(tmp_path)
    assert run_ranks(train_all, 1, [origin]) == [None]
    start = {"init_from": {"path": str(origin.out / "checkpoints" / "step-00000004")}}
    job = Kind(1, 1, "fp32", changes=start).job(tmp_path, name="again")
    assert run_ranks(train_all, 1, [job]) == [None]
    whole = trajectory(job)
    assert whole[0][1] < trajectory(origin)[0][1] - 0.1, "it starts from trained weights"
    add_rollback(job.out, Rollback(at_step=4, to_step=0, skipped=(1000, 1005), reason="made up", time=0.0))
    assert run_ranks(train_all, 1, [job]) == [None], "the checkpoints are void now"
    assert trajectory(job) == whole


ARCHITECTURES = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "olmo2": {},
    "gemma3_text": {"head_dim": 8, "sliding_window": 8},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


def test_every_architecture_trains_alike_in_every_layout(tmp_path):
    losses_of = {}
    for world_size, stage in [(1, 0), (2, 3), (3, 2)]:
        jobs = [
            Kind(
                world_size,
                stage,
                "fp32",
                changes={"model": {**SMALL, "architecture": name, "overrides": keys, "tie_word_embeddings": False}},
            ).job(tmp_path, name=f"{name}-{world_size}-{stage}")
            for name, keys in ARCHITECTURES.items()
        ]
        assert run_ranks(train_all, world_size, jobs) == [None] * world_size
        for name, job in zip(ARCHITECTURES, jobs, strict=True):
            losses = [line.loss for line in lines(job)]
            assert losses == pytest.approx(losses_of.setdefault(name, losses), rel=2e-5), (name, world_size, stage)
