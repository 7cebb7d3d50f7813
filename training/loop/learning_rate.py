"""The learning rate as a pure function of the step."""

import math

from configs.training.optimizer import CosineSchedule
from configs.training.train import TrainConfig


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Return the learning rate of optimizer step `step` (from 0), as a fraction of the peak.

    It is a function of the samples read: the schedule's steps are those of the whole batch, so that a smaller batch at
    the start moves on by a part of one.

    Warm-up rises linearly and reaches the peak at its last step. The cosine decay is that of arXiv 1608.03983, eq. 5,
    without restarts; warm-up-stable-decay (WSD) that of arXiv 2404.06395, section 4, with a linear decay.
    """
    schedule, num_steps = config.schedule, config.full_steps_before(config.total_steps)
    before, after = config.full_steps_before(step), config.full_steps_before(step + 1)
    if before < schedule.num_warmup_steps:
        return min(1.0, after / schedule.num_warmup_steps)
    if isinstance(schedule, CosineSchedule):
        progress = (before - schedule.num_warmup_steps) / max(1, num_steps - schedule.num_warmup_steps)
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress))
    steps_left = num_steps - before
    if steps_left > schedule.num_decay_steps:
        return 1.0
    return schedule.floor + (1 - schedule.floor) * steps_left / (schedule.num_decay_steps + 1)
