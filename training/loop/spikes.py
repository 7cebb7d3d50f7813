"""When a run has left its course: the losses of its last steps, and steps whose numbers are not finite. Pure."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from configs.training import SpikeConfig, StabilityConfig

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""


@dataclass(frozen=True)
class Trouble:
    """Why to go back to a checkpoint, and how many of the last steps are part of the trouble."""

    num_steps: int
    reason: str


class Stability:
    """The judgement over a run, step by step. Every rank sees the same numbers, so all come to the same verdict."""

    def __init__(self, config: StabilityConfig, so_far: Iterable[tuple[float, bool]]) -> None:
        """`so_far`: loss, and whether the weights were updated, of the steps before; the last ones suffice."""
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.spikes.window_steps if config.spikes else 1)
        self._skipped = self._spikes = self._bad = 0  # in a row; bad: either
        for loss, updated in so_far:
            self.judge(loss, updated=updated)

    def judge(self, loss: float, *, updated: bool) -> Trouble | None:
        """Take a step into account; what to go back for, if anything."""
        self._skipped, self._bad = (0, self._bad) if updated else (self._skipped + 1, self._bad + 1)
        if self._skipped > self._config.max_skipped_steps:
            return Trouble(self._bad, f"{self._skipped} steps in a row without finite loss and gradient")
        rule = self._config.spikes
        if not updated:
            return None
        if rule is None:
            self._bad = 0
            return None
        score = spike_score(loss, self._losses, rule)
        if score <= rule.threshold:
            self._spikes = self._bad = 0
            self._losses.append(loss)
            return None
        self._spikes, self._bad = self._spikes + 1, self._bad + 1
        if self._spikes < rule.patience_steps:
            return None
        course = f"{score:.1f} robust standard deviations above its median, {median(self._losses):.4g}"
        return Trouble(self._bad, f"the loss was {loss:.4g}, {course}")


def spike_score(loss: float, before: Iterable[float], rule: SpikeConfig) -> float:
    """How many robust standard deviations a loss lies above the median of those before; 0 while they are few.

    The modified z-score (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993), one-sided.
    """
    values = list(before)
    if 2 * len(values) < rule.window_steps:
        return 0.0
    middle = median(values)
    spread = MAD_TO_SIGMA * median(abs(value - middle) for value in values)
    return (loss - middle) / max(spread, 1e-6 * abs(middle), math.ulp(1.0))


def memory_steps(config: StabilityConfig) -> int:
    """How many of the last steps a judgement looks at, and trouble may be made of."""
    window, patience = (config.spikes.window_steps, config.spikes.patience_steps) if config.spikes else (1, 1)
    return 4 * window + (patience + 1) * (config.max_skipped_steps + 1)
