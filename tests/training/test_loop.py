"""Training end to end on two CPU ranks: gradients, the loss, kill and resume."""

import os
import signal
from pathlib import Path

import pytest
import torch

from cluster.executor import Rank
from tests.training.ranks import VOCAB, run_ranks, tiny_config, tiny_job
from training.batches import Batches
from training.checkpoint import load_weights
from training.engine import join, leave
from training.job import Job
from training.loop import Trainer, train_rank
from training.metrics import FILE, read_metrics
from training.model import build_model, model_config
from training.schedule import learning_rate_factor

CASES = [(stage, precision) for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16")]


def weights(job: Job, step: int) -> dict[str, torch.Tensor]:
    return load_weights(job.out / "checkpoints" / f"step-{step:08d}")


def train_all(rank: Rank, jobs: list[Job]) -> None:
    device = join(rank)
    for job in jobs:
        Trainer(rank, job, device).run()
    leave()


def train_and_die(rank: Rank, job: Job, step: int) -> None:
    """Rank 1 is killed when it asks for the data of step `step`, from 0."""
    honest = Batches.micro_batches

    def deadly(self, at, **layout):
        if at == step and rank.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, at, **layout)

    Batches.micro_batches = deadly
    train_rank(rank, job)


def plain_torch(job: Job) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """The same training in one process without DeepSpeed: weights, losses and gradient norms."""
    config = job.config
    model = build_model(model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2), seed=config.seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": config.optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    batches, losses, norms = Batches(job.tokens, config), [], []
    for step in range(config.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * learning_rate_factor(config.schedule, step, num_steps=config.num_steps)
        (batch,) = batches.micro_batches(step, rank=0, world_size=1, size=100)
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.tokens[:, 1:]).clone()
        for row, length in enumerate(batch.lengths):
            targets[row, length:] = -100
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=tokens[:, :-1]).logits.flatten(0, 1), targets.flatten()
        )
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


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_gives_the_gradients_of_plain_pytorch(trained, stage):
    job = trained[stage, "fp32"]
    reference, losses, norms = plain_torch(job)
    lines = read_metrics(job.out / FILE)
    assert [line.loss for line in lines] == pytest.approx(losses, rel=1e-5)
    assert [line.gradient_norm for line in lines] == pytest.approx(norms, rel=1e-4)
    for name, tensor in weights(job, job.config.num_steps).items():
        torch.testing.assert_close(tensor, reference[name].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_training_follows_fp32(trained, stage):
    exact = [line.loss for line in read_metrics(trained[stage, "fp32"].out / FILE)]
    rounded = [line.loss for line in read_metrics(trained[stage, "bf16"].out / FILE)]
    assert rounded == pytest.approx(exact, abs=0.05)
    assert rounded != exact


def test_only_the_newest_checkpoints_stay(trained):
    job = trained[1, "fp32"]
    assert sorted(path.name for path in (job.out / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (3, "bf16"), (0, "bf16"), (2, "fp32")])
def test_a_killed_and_resumed_run_is_bit_identical(trained, tmp_path, stage, precision):
    calm = trained[stage, precision]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=stage)
    killed = run_ranks(train_and_die, 2, job, 5)
    assert killed[1] == -signal.SIGKILL
    assert len(read_metrics(job.out / FILE)) == 5, "the kill must come after a checkpoint, with a step to redo"
    assert run_ranks(train_all, 2, [job]) == [None, None]
    again, before = read_metrics(job.out / FILE), read_metrics(calm.out / FILE)
    assert [(line.step, line.loss, line.gradient_norm) for line in again] == [
        (line.step, line.loss, line.gradient_norm) for line in before
    ]
    reference = weights(calm, 6)
    for name, tensor in weights(job, 6).items():
        assert torch.equal(tensor, reference[name]), name


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(trained, tmp_path):
    calm = trained[1, "fp32"]
    job = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    run_ranks(train_and_die, 2, job, 5)
    file = next((job.out / "checkpoints" / "step-00000004").glob("rank-00001*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert run_ranks(train_all, 2, [job]) == [None, None]
    assert torch.equal(weights(job, 6)["model.norm.weight"], weights(calm, 6)["model.norm.weight"])
    assert "step-00000004 is damaged: rank-00001" in (job.out / "notices.txt").read_text()


@pytest.mark.parametrize(("stage", "world_size"), [(0, 1), (3, 3)])
def test_a_checkpoint_of_another_stage_and_world_size_is_gone_on_from(trained, tmp_path, stage, world_size):
    calm = trained[1, "fp32"]
    killed = tiny_job(tmp_path, calm.config, world_size=2, zero_stage=1)
    run_ranks(train_and_die, 2, killed, 5)
    job = tiny_job(tmp_path, calm.config, world_size=world_size, zero_stage=stage)
    assert run_ranks(train_all, world_size, [job]) == [None] * world_size
    before = [line.loss for line in read_metrics(calm.out / FILE)]
    assert [line.loss for line in read_metrics(job.out / FILE)] == pytest.approx(before, rel=1e-5)
    for name, tensor in weights(job, 6).items():
        torch.testing.assert_close(tensor, weights(calm, 6)[name], rtol=1e-4, atol=1e-5)


def test_the_loss_falls(tmp_path):
    config = tiny_config(num_steps=40, checkpoint_every_steps=100)
    job = tiny_job(tmp_path, config, world_size=1, zero_stage=1)
    (manifest,) = run_ranks(train_rank, 1, job)
    assert Path(job.out / manifest.checkpoint).is_dir()
    assert manifest.first_loss == pytest.approx(5.77, abs=0.3)  # ln 320
    assert manifest.final_loss < manifest.first_loss - 1.5
