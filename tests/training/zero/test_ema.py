"""The moving average of the weights."""

import pytest
import torch

from configs.training.optimizer import EmaConfig
from tests.training.ranks import VOCAB, run_ranks, tiny_config, tiny_job
from tests.training.trials import train_all, weights
from training.checkpoint.directory import load_weights
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.zero.ema import decay_after

STEPS = 5


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "bf16")])
def test_the_average_follows_the_weights_of_every_step(tmp_path, stage, precision):
    config = tiny_config(ema={"decay": 0.5}, checkpoint_every_steps=1, num_steps=STEPS, precision=precision)
    job = tiny_job(tmp_path, config, world_size=2, zero_stage=stage, retention={"newest": 9})
    assert run_ranks(train_all, 2, [job]) == [None, None]
    settings = make_model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2)
    model = build_in_memory(settings, seed=config.seed)
    expected = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    for step in range(1, STEPS + 1):
        decay = min(0.5, (1 + step) / (10 + step))
        found = load_weights(job.out / f"checkpoints/step-{step:08d}", kind="ema")
        for name, now in weights(job, step).items():
            expected[name] = decay * expected[name] + (1 - decay) * now
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_the_decay_grows_to_what_was_asked_for():
    config = EmaConfig(decay=0.99)
    assert decay_after(config, 1) == pytest.approx(2 / 11)
    assert decay_after(config, 80) == pytest.approx(0.9)
    assert decay_after(config, 10_000) == 0.99
