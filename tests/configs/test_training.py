"""How long a training is: by steps, or by tokens."""

import json

import pytest
from pydantic import ValidationError

from configs.run import TrainStep
from configs.training.train import CadenceConfig, TrainConfig
from tests.training.ranks import tiny_config

STEP = 5 * 16
"""Tokens of an optimizer step of tiny_config."""


@pytest.mark.parametrize(("num_tokens", "steps"), [(1, 1), (STEP, 1), (STEP + 1, 2), (10**12, 12_500_000_000)])
def test_the_last_step_is_whole(num_tokens, steps):
    schedule = {"kind": "cosine", "num_warmup_steps": 0}
    assert tiny_config(num_steps=None, num_tokens=num_tokens, schedule=schedule).total_steps == steps


def test_tokens_follow_a_batch_that_changes():
    config = tiny_config(num_steps=None, num_tokens=100 * STEP, global_batch_size=10)
    assert config.total_steps == 50


def test_tokens_follow_a_batch_that_grows():
    """Two sequences of 16 tokens in each of two steps, then four, then the whole five."""
    ramp = {"start": 2, "increment": 2, "steps_per_increment": 2}
    for num_samples, steps in ((1, 1), (4, 2), (5, 3), (12, 4), (13, 5), (17, 5), (18, 6)):
        changes = {"schedule": {"kind": "cosine", "num_warmup_steps": 0}, "batch_ramp": ramp}
        config = tiny_config(num_steps=None, num_tokens=16 * num_samples, **changes)
        assert config.total_steps == steps
        assert config.samples_before(steps - 1) < num_samples <= config.samples_before(steps)
        assert config.tokens_to_read == 16 * config.samples_before(steps)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_steps": None}, "give num_steps or num_tokens"),
        ({"num_tokens": 1000}, r"num_steps \(6\) and num_tokens \(1,000\) both say how long to train; leave one out"),
        ({"num_steps": None, "num_tokens": 0}, "greater than or equal to 1"),
        ({"num_steps": None, "num_tokens": STEP}, r"longer than the 80 of num_tokens \(steps: 1\)"),
        ({"num_steps": None, "num_tokens": 900, "mixture": {"budget_tokens": 900}}, "are 960 tokens.*lower num_tokens"),
    ],
)
def test_one_length_is_given_and_the_others_fit_it(settings, said):
    with pytest.raises(ValidationError, match=said):
        tiny_config(**settings)


def test_a_record_of_a_training_by_tokens_is_read_again():
    config = tiny_config(num_steps=None, num_tokens=1000)
    assert TrainConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_a_profile_ends_with_the_training():
    config = tiny_config(num_steps=None, num_tokens=1000)
    assert TrainStep(stage="train", cadence=CadenceConfig(profile_steps=(13, 13)), config=config).config == config
    with pytest.raises(ValidationError, match="ends at step 14, and the training at 13"):
        TrainStep(stage="train", cadence=CadenceConfig(profile_steps=(14, 14)), config=config)
