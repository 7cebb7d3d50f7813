"""The plan's number of checkpoints on disk is never less than retention leaves, whatever the losses."""

import random

import pytest

from configs.pools import RetentionConfig
from configs.training.train import TrainConfig
from pipeline.chain_checks import kept_at_the_end
from pipeline.estimate.estimate import num_on_disk
from tests.training.sizing.test_fit import recipe
from training.checkpoint.retention import steps_to_keep


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_counts_no_fewer_checkpoints_than_there_are(seed: int) -> None:
    chosen = random.Random(seed)
    every = chosen.choice((10, 25))
    rule = RetentionConfig(
        newest=chosen.randint(1, 4), best=chosen.randint(0, 3), every_steps=chosen.choice((None, every, 2 * every))
    )
    config: TrainConfig = recipe(num_steps=400, checkpoint_every_steps=every)
    losses: dict[int, float] = {}
    most = 0
    for step in [*range(every, 401, every)]:
        losses[step] = chosen.random()
        most = max(most, len(losses) + 1)  # one that a signal asked for
        kept = steps_to_keep(
            losses, rule, is_own=lambda _: True, sound_step=step - chosen.choice((0, every)), validation_losses={}
        )
        losses = {step: losses[step] for step in kept}
    assert most <= num_on_disk(config, rule)
    assert kept_at_the_end(config, rule) <= set(losses)
