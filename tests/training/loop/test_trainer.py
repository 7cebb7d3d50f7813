"""Training end to end on two CPU ranks: gradients against plain PyTorch, kills, resuming, stopping."""

import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from configs.base import Artifact
from configs.training.train import CadenceConfig
from tests.training.ranks import VOCAB, run_ranks, tiny_config, tiny_job
from tests.training.trials import (
    lines,
    train_all,
    train_and_be_told_to_stop,
    train_and_die,
    train_and_find,
    train_and_summarise,
    trajectory,
    weights,
)
from training.data.batches import Batches
from training.data.passes import even_plan
from training.job import Job
from training.log.sessions_file import step_seconds
from training.loop.learning_rate import learning_rate_factor
from training.loop.stop_requests import RESIZE_FILE, SAVE_FILE
from training.loop.trainer import train_rank
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config

CASES = [(stage, precision) for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16")]


def losses_by_document(model, tokens: torch.Tensor, length: int) -> list[torch.Tensor]:
    """Token losses of one row, each document run by itself: no mask, no packing."""
    starts = [0, *[i for i in range(1, length) if tokens[i] == 1], length]
    found = []
    for start, stop in pairwise(starts):
        logits = model(input_ids=tokens[None, start:stop]).logits[0]
        found.append(torch.nn.functional.cross_entropy(logits, tokens[start + 1 : stop + 1], reduction="sum"))
    return found


def plain_torch(job: Job) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """The same training in one process without DeepSpeed: weights, losses and gradient norms."""
    config = job.config
    model = build_in_memory(make_model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2), seed=config.seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": config.optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    batches, losses, norms = Batches(job.tokens, config), [], []
    size = config.global_batch_size
    for step in range(config.total_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * learning_rate_factor(config, step)
        chosen = batches.batch((range(step * size, (step + 1) * size),))
        (batch,) = batches.micro_batches(chosen, even_plan(size, 1, size=100), rank=0)
        rows = zip(torch.from_numpy(batch.tokens), batch.lengths.tolist(), strict=True)
        loss = sum(loss for row, length in rows for loss in losses_by_document(model, row, length))
        loss = loss / int(batch.lengths.sum())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_gradient_norm)))
        optimizer.step()
        losses.append(loss.item())
    return dict(model.named_parameters()), losses, norms


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[tuple[int, str], Job]:
    """Each ZeRO stage and precision, trained without disturbance on two ranks."""
    jobs = {
        case: tiny_job(tmp_path_factory.mktemp("job"), tiny_config(precision=case[1]), world_size=2, zero_stage=case[0])
        for case in CASES
    }
    assert run_ranks(train_all, 2, list(jobs.values())) == [None, None]
    return jobs


@pytest.fixture(scope="module")
def plain(trained):
    return plain_torch(trained[0, "fp32"])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_gives_the_gradients_of_plain_pytorch(trained, plain, stage):
    job = trained[stage, "fp32"]
    reference, losses, norms = plain
    assert [line.loss for line in lines(job)] == pytest.approx(losses, rel=1e-5)
    assert [line.gradient_norm for line in lines(job)] == pytest.approx(norms, rel=1e-4)
    for name, tensor in weights(job, job.config.total_steps).items():
        torch.testing.assert_close(tensor, reference[name].detach(), rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_training_follows_fp32(trained, stage):
    exact = [line.loss for line in lines(trained[stage, "fp32"])]
    rounded = [line.loss for line in lines(trained[stage, "bf16"])]
    assert rounded == pytest.approx(exact, abs=0.05)
    assert rounded != exact


def test_a_training_of_so_many_tokens_is_that_of_the_steps_which_hold_them(trained, tmp_path):
    config = tiny_config(num_steps=None, num_tokens=6 * 5 * 16 - 7)
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=2)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert trajectory(job) == trajectory(trained[2, "fp32"])
    last = weights(job, 6)
    assert all(torch.equal(last[name], tensor) for name, tensor in weights(trained[2, "fp32"], 6).items())


def test_the_parts_of_a_line_add_up(trained):
    job = trained[2, "fp32"]
    for line in lines(job):
        assert line.loss == pytest.approx(sum(line.nats.values()) / sum(line.targets.values()))
        assert line.bits_per_byte == pytest.approx(line.loss / torch.log(torch.tensor(2.0)).item() / 3)
        assert {"data", "forward", "backward", "optimizer", "communication"} <= line.seconds.keys()
        assert line.updated
        assert line.mfu is None, "no CPU is in the table of peaks"
        assert line.memory_bytes > 1e8
        working = sum(seconds for part, seconds in line.seconds.items() if part not in ("checkpoint", "validation"))
        wall = sum(line.targets.values()) / line.tokens_per_second
        assert working == pytest.approx(wall, rel=0.3, abs=0.01)
    total = lines(job)[-1].num_tokens
    assert total == sum(sum(line.targets.values()) for line in lines(job))
    assert any("checkpoint" in line.seconds for line in lines(job))


@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (3, "bf16"), (0, "bf16"), (2, "fp32")])
def test_a_killed_and_resumed_run_is_bit_identical(trained, tmp_path, stage, precision):
    calm = trained[stage, precision]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=stage)
    killed = run_ranks(train_and_die, 2, job, 5)
    assert killed[1] == -signal.SIGKILL
    assert len(lines(job)) == 5, "the kill must come after a checkpoint, with a step to redo"
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert trajectory(job) == trajectory(calm)
    reference = weights(calm, 6)
    for name, tensor in weights(job, 6).items():
        assert torch.equal(tensor, reference[name]), name
    for file in (calm.out / "checkpoints" / "step-00000006").iterdir():
        assert (job.out / "checkpoints" / "step-00000006" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(trained, tmp_path):
    calm = trained[1, "fp32"]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    run_ranks(train_and_die, 2, job, 5)
    file = job.out / "checkpoints" / "step-00000004" / "rank-00001-of-00002.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert torch.equal(weights(job, 6)["model.norm.weight"], weights(calm, 6)["model.norm.weight"])
    assert "step-00000004 is damaged: rank-00001" in (job.out / "notices.txt").read_text()
    assert (job.out / "checkpoints" / ".damaged-step-00000004").is_dir()


def test_a_damaged_checkpoint_ahead_costs_no_later_one(trained, tmp_path):
    calm = trained[1, "fp32"]
    config = calm.config.model_copy(update={"validation": None})  # whose best checkpoint would stay, too
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=1, retention={"newest": 1})
    assert run_ranks(train_all, 2, [job]) == [None, None]
    last = job.out / "checkpoints" / "step-00000006"
    os.truncate(last / "rank-00000-of-00002.safetensors", 100)
    run_ranks(train_and_be_told_to_stop, 2, job, 1, signal.SIGTERM)
    assert {path.name for path in (job.out / "checkpoints").glob("step-*")} == {"step-00000002", "step-00000003"}
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert trajectory(job) == trajectory(calm)


def test_a_run_whose_checkpoints_are_all_damaged_begins_again(trained, tmp_path):
    calm = trained[1, "fp32"]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    run_ranks(train_and_die, 2, job, 5)
    for file in job.out.glob("checkpoints/*/rank-00000-of-00002.safetensors"):
        os.truncate(file, file.stat().st_size - 1)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert trajectory(job) == trajectory(calm)


@pytest.mark.parametrize(("stage", "world_size"), [(0, 1), (3, 3)])
def test_a_checkpoint_of_another_stage_and_world_size_is_gone_on_from(trained, tmp_path, stage, world_size):
    calm = trained[1, "fp32"]
    killed = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    run_ranks(train_and_die, 2, killed, 5)
    job = tiny_job(tmp_path, calm.config, world_size=world_size, zero_stage=stage)
    assert run_ranks(train_all, world_size, [job]) == [None] * world_size
    assert [line.first_place for line in lines(job)] == [line.first_place for line in lines(calm)]
    assert [line.loss for line in lines(job)] == pytest.approx([line.loss for line in lines(calm)], rel=1e-5)
    for name, tensor in weights(job, 6).items():
        torch.testing.assert_close(tensor, weights(calm, 6)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_saves_and_stops_all(trained, tmp_path, number):
    calm = trained[1, "bf16"]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    said = run_ranks(train_and_be_told_to_stop, 2, job, 1, number)
    assert said == ["Stopped 75: stopped after step 3, which is saved; run the same command to go on"] * 2
    assert (job.out / "checkpoints" / "step-00000003").is_dir()
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert trajectory(job) == trajectory(calm)


def test_a_save_that_is_asked_for_is_made_and_training_goes_on(trained, tmp_path):
    calm = trained[1, "fp32"]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1, retention={"newest": 9})
    assert run_ranks(train_and_find, 2, job, 1, job.out / SAVE_FILE, "") == ["finished"] * 2
    assert (job.out / "checkpoints" / "begun.txt").read_text().split() == ["2", "3", "4", "6"]
    steps = sorted(path.name for path in (job.out / "checkpoints").glob("step-*"))
    assert [int(name[-1]) for name in steps] == [2, 4, 6], "it was there to resume from"
    assert not (job.out / SAVE_FILE).exists()
    assert trajectory(job) == trajectory(calm)


def test_a_line_may_sum_up_several_steps_and_ends_at_each_checkpoint(trained, tmp_path):
    calm = trained[1, "fp32"]
    cadence = CadenceConfig(log_every_steps=4)
    config = calm.config.model_copy(update={"checkpoint_every_steps": 3})
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=1, cadence=cadence)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert [(line.step, line.num_steps) for line in lines(job)] == [(1, 1), (3, 2), (4, 1), (6, 2)]
    for line in lines(job):
        steps = lines(calm)[line.step - line.num_steps : line.step]
        assert line.first_place == steps[0].first_place
        assert (line.num_tokens, line.learning_rate) == (steps[-1].num_tokens, steps[-1].learning_rate)
        assert line.gradient_norm == max(step.gradient_norm for step in steps)
        assert sum(line.targets.values()) == sum(sum(step.targets.values()) for step in steps)
        assert line.loss == pytest.approx(sum(line.nats.values()) / sum(line.targets.values()))
        assert sum(line.nats.values()) == pytest.approx(sum(sum(step.nats.values()) for step in steps))
    assert lines(job)[-1].useful_seconds == pytest.approx(sum(map(line_seconds, lines(job))), rel=1e-2)


def test_what_is_made_does_not_hang_on_cadence(tmp_path):
    config = tiny_config(num_steps=15, checkpoint_every_steps=9)
    cadences = [CadenceConfig(), CadenceConfig(log_every_steps=7), CadenceConfig(log_every_steps=50)]
    cadences.append(CadenceConfig(log_every_steps=50, checkpoint_every_minutes=1e-9))
    jobs = [
        tiny_job(tmp_path, config, world_size=1, zero_stage=1, name=f"{number}", cadence=cadence)
        for number, cadence in enumerate(cadences)
    ]
    models = run_ranks(train_and_summarise, 1, jobs)[0]
    assert [len(lines(job)) for job in jobs[:3]] == [15, 6, 4]
    for model in models:
        for name in ("first_loss", "final_loss", "bits_per_byte", "loss_by_language", "loss_by_source", "num_tokens"):
            assert getattr(model, name) == pytest.approx(getattr(models[0], name), rel=1e-12), name


def line_seconds(line):
    return step_seconds(line) * line.num_steps


def test_a_resize_saves_and_ends_and_goes_on_with_another_number_of_ranks(trained, tmp_path):
    calm = trained[1, "fp32"]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    said = run_ranks(train_and_find, 2, job, 1, job.out / RESIZE_FILE, "")
    assert len(set(said)) == 1 and said[0].startswith("Resized: stopped after step ")
    wider = tiny_job(tmp_path, calm.config, world_size=3, zero_stage=1)
    assert run_ranks(train_all, 3, [wider]) == [None] * 3
    assert [line.first_place for line in lines(wider)] == [line.first_place for line in lines(calm)]
    assert [line.loss for line in lines(wider)] == pytest.approx([line.loss for line in lines(calm)], rel=1e-5)


def test_a_training_that_was_taken_over_names_no_checkpoint(trained, tmp_path):
    job = tiny_job(tmp_path, trained[1, "fp32"].config, world_size=1, zero_stage=1)
    lease = job.fence.path
    (said,) = run_ranks(train_and_find, 1, job, 1, lease, '{"token": "t", "host": "b", "pid": 7, "since": "now"}')
    assert said.startswith("LeaseLost: out is being made by process 7 on b since now, who took it over")
    assert not list(job.out.glob("checkpoints/step-*"))


def test_the_loss_falls(tmp_path: Path):
    config = tiny_config(num_steps=40, checkpoint_every_steps=100)
    job = tiny_job(tmp_path, config, world_size=1, zero_stage=1)
    (manifest,) = run_ranks(train_rank, 1, job)
    assert Path(job.out / manifest.checkpoint).is_dir()
    assert manifest.first_loss == pytest.approx(5.77, abs=0.3)  # ln 320
    assert manifest.final_loss < manifest.first_loss - 1.5


def test_a_document_begins_with_the_piece_that_begins_a_text_if_there_is_one(tmp_path: Path) -> None:
    jobs = []
    for name, roles in {"begin": {"bos_id": 7}, "end": {"eos_id": 7}, "other": {}}.items():
        job = tiny_job(tmp_path, tiny_config(num_steps=2), world_size=1, zero_stage=1, name=name)
        manifest = job.tokenizer.manifest.model_copy(update=roles)
        jobs.append(replace(job, tokenizer=Artifact(job.tokenizer.dir, manifest)))
    assert run_ranks(train_all, 1, jobs) == [None]
    begin, end, other = map(trajectory, jobs)
    assert begin == end != other
