"""Validation while training: its numbers are those of the model, and it changes nothing of the training."""

import math

import pytest
import torch

from tests.training.loop.test_trainer import losses_by_document
from tests.training.ranks import MIXTURE_OF_EXPERTS, VOCAB, run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, train_all, train_and_summarise, train_compiled, trajectory, weights
from training.checkpoint.directory import read_record
from training.data.passes import even_plan
from training.data.validation import choose_validation_set
from training.job import Job
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config

LAYOUTS = [(2, 0), (2, 1), (3, 2), (2, 3)]


def job(directory, *, world_size=2, zero_stage=1, name="out", **changes) -> Job:
    config = tiny_config(**{"validation": {"max_share": 1.0}} | changes)
    pool = {"retention": {"newest": 9}, "activation_checkpointing": zero_stage == 3}
    return tiny_job(directory, config, world_size=world_size, zero_stage=zero_stage, name=name, **pool)


def expected_nats(job: Job, step: int) -> dict[str, float]:
    """The nats of each stream's held-out text by the weights of a checkpoint, a document at a time."""
    config = job.config
    model = build_in_memory(make_model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2), seed=0)
    model.load_state_dict(weights(job, step), strict=False)
    chosen = choose_validation_set(job.tokens, config)
    (rows,) = chosen.samples.micro_batches(chosen.batch, even_plan(len(chosen.batch.stream), 1, size=100), rank=0)
    nats = dict.fromkeys(chosen.streams, 0.0)
    with torch.no_grad():
        for tokens, length, stream in zip(torch.from_numpy(rows.tokens), rows.lengths, rows.streams, strict=True):
            nats[chosen.streams[stream]] += float(sum(losses_by_document(model, tokens, int(length))))
    return nats


@pytest.mark.parametrize(("world_size", "stage"), LAYOUTS)
def test_the_losses_are_those_of_the_weights_in_every_layout(tmp_path, world_size, stage):
    trained = job(tmp_path, world_size=world_size, zero_stage=stage)
    bare = job(tmp_path, world_size=world_size, zero_stage=stage, name="bare", validation=None)
    (model, without), *_ = run_ranks(train_and_summarise, world_size, [trained, bare])
    found = {line.step: line.validation for line in lines(trained) if line.validation is not None}
    assert sorted(found) == [2, 4, 6]
    for step, validation in found.items():
        nats = expected_nats(trained, step)
        assert validation.nats == pytest.approx(nats, rel=1e-4)
        assert validation.targets == {"science/en": 59, "web/de": 59, "web/sw": 59}
        assert validation.loss == pytest.approx(sum(nats.values()) / 177, rel=1e-4)
        assert validation.bits_per_byte == pytest.approx(validation.loss / math.log(2) / 3)
        assert validation.bits_per_byte_by_stream["web/sw"] == pytest.approx(
            nats["web/sw"] / 59 / math.log(2) / 3, rel=1e-4
        )
        assert read_record(trained.out / f"checkpoints/step-{step:08d}").validation_loss == validation.loss
    best = min(found, key=lambda step: found[step].loss)
    assert model.best_checkpoint == f"checkpoints/step-{best:08d}"
    assert (model.validation_loss, model.best_validation_loss) == (found[6].loss, found[best].loss)
    assert trajectory(trained) == trajectory(bare), "validation changes nothing of the training"
    assert all(map(torch.equal, weights(trained, 6).values(), weights(bare, 6).values()))
    assert (without.validation_loss, without.best_checkpoint) == (None, None)


def test_experts_are_validated_alike_by_any_number_of_ranks(tmp_path):
    jobs = {n: job(tmp_path, world_size=n, name=str(n), num_steps=2, model=MIXTURE_OF_EXPERTS) for n in (1, 2)}
    for world_size, one in jobs.items():
        assert run_ranks(train_all, world_size, [one]) == [None] * world_size
    alone, shared = (lines(one)[-1].validation for one in jobs.values())
    assert shared.nats == pytest.approx(alone.nats, rel=1e-3)


def test_compiled_layers_validate_as_others_do(tmp_path):
    eager = job(tmp_path, num_steps=4)
    compiled = tiny_job(tmp_path, eager.config, world_size=2, zero_stage=1, name="compiled", compile=True)
    assert run_ranks(train_all, 2, [eager]) == [None, None]
    assert run_ranks(train_compiled, 2, [compiled]) == [None, None]
    plain, fast = (lines(one)[-1].validation for one in (eager, compiled))
    assert fast.nats == pytest.approx(plain.nats, rel=1e-4)
    new_graphs = [line.graphs_compiled for line in lines(compiled)]
    assert new_graphs[2:] == [0, 0], "one for the passes of steps, one for those of validation"


def test_a_model_that_over_fits_shows_it_and_the_best_is_kept(tmp_path):
    over = job(tmp_path, num_steps=30, checkpoint_every_steps=5, optimizer={"learning_rate": 0.03})
    over = tiny_job(tmp_path, over.config, world_size=2, zero_stage=1, name="few", retention={"newest": 1})
    models = run_ranks(train_and_summarise, 2, [over])
    (model,) = models[0]
    losses = {line.step: line.validation.loss for line in lines(over) if line.validation}
    best = min(losses, key=losses.get)
    assert lines(over)[-1].loss < lines(over)[4].loss, "the training loss falls"
    assert losses[30] > losses[best] and best < 30, "and the held-out loss rises"
    kept = sorted(path.name for path in (over.out / "checkpoints").glob("step-*"))
    assert f"step-{best:08d}" in kept and len(kept) <= 3
    assert model.best_checkpoint == f"checkpoints/step-{best:08d}"
    assert f"lowest {losses[best]:.2f} after step {best}" in model.summary()


def test_validations_between_checkpoints_are_no_part_of_what_is_best(tmp_path):
    often = job(tmp_path, validation={"every_steps": 1, "max_share": 1.0}, checkpoint_every_steps=3)
    assert run_ranks(train_all, 2, [often]) == [None, None]
    assert [line.step for line in lines(often) if line.validation] == [1, 2, 3, 4, 5, 6]
    records = [read_record(path) for path in sorted((often.out / "checkpoints").glob("step-*"))]
    losses = {line.step: line.validation.loss for line in lines(often)}
    assert {record.step: record.validation_loss for record in records} == {3: losses[3], 6: losses[6]}


@pytest.mark.parametrize(
    ("pool", "changes"),
    [
        ({"deepspeed": {"zero_optimization": {"zero_hpz_partition_size": 2}}}, {}),
        ({}, {"zero_quantized_weights": True, "zero_quantized_gradients": True, "precision": "bf16"}),
        ({"compile": True}, {}),
    ],
    ids=["a second copy of weights", "quantised", "compiled"],
)
@pytest.mark.long
def test_what_zero_3_keeps_between_passes_is_not_disturbed(tmp_path, pool, changes):
    trained, bare = (
        tiny_job(tmp_path, tiny_config(validation=validation, **changes), world_size=2, zero_stage=3, name=name, **pool)
        for name, validation in (("trained", {"every_steps": 1, "max_share": 1.0}), ("bare", None))
    )
    for one in (trained, bare):  # a process has one group of ranks that share weights
        assert run_ranks(train_compiled, 2, [one]) == [None, None]
    assert trajectory(trained) == trajectory(bare)
    assert all(map(torch.equal, weights(trained, 6).values(), weights(bare, 6).values()))
