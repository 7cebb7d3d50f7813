"""The learning rate as a pure function of the step."""

import math

from configs.training import CosineSchedule, Schedule


def learning_rate_factor(schedule: Schedule, step: int, *, num_steps: int) -> float:
    """Return the learning rate of optimizer step `step` (from 0) of `num_steps`, as a fraction of the peak.

    Warm-up rises linearly and reaches the peak at its last step. The cosine decay is that of arXiv 1608.03983, eq. 5,
    without restarts; warm-up-stable-decay (WSD) that of arXiv 2404.06395, section 4, with a linear decay.
    """
    if step < schedule.num_warmup_steps:
        return (step + 1) / schedule.num_warmup_steps
    if isinstance(schedule, CosineSchedule):
        progress = (step - schedule.num_warmup_steps) / max(1, num_steps - schedule.num_warmup_steps)
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress))
    steps_left = num_steps - step
    if steps_left > schedule.num_decay_steps:
        return 1.0
    return schedule.floor + (1 - schedule.floor) * steps_left / (schedule.num_decay_steps + 1)
