"""Detects that a training has become unstable: loss spikes, and steps whose loss or gradient is not finite. Pure."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from configs.training.train import SpikeConfig, StabilityConfig

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""


@dataclass(frozen=True)
class Instability:
    """A reason to roll back."""

    num_steps: int
    """How many of the last steps are part of it."""

    reason: str


class InstabilityDetector:
    """Checks a training step by step. Every rank sees the same numbers, so all come to the same result."""

    def __init__(self, config: StabilityConfig, so_far: Iterable[tuple[float, bool]]) -> None:
        """Take earlier steps into account: `so_far` has the loss of each, and whether the weights were updated.

        The last `num_steps_remembered` suffice.
        """
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.spikes.window_steps if config.spikes else 1)
        self._num_skipped = self._num_spikes = 0  # in a row
        self.num_bad = 0
        """The last steps that an instability under way consists of: skipped ones and spikes."""
        for loss, updated in so_far:
            self.check_step(loss, updated=updated)

    def check_step(self, loss: float, *, updated: bool) -> Instability | None:
        """Take a step into account, and return the instability that it completes, if it does."""
        if updated:
            self._num_skipped = 0
        else:
            self._num_skipped, self.num_bad = self._num_skipped + 1, self.num_bad + 1
        if self._num_skipped > self._config.max_skipped_steps:
            return Instability(self.num_bad, f"{self._num_skipped} steps in a row without finite loss and gradient")
        rule = self._config.spikes
        if not updated:
            return None
        if rule is None:
            self.num_bad = 0
            return None
        score = spike_score(loss, self._losses, rule)
        if score <= rule.threshold:
            self._num_spikes = self.num_bad = 0
            self._losses.append(loss)
            return None
        self._num_spikes, self.num_bad = self._num_spikes + 1, self.num_bad + 1
        if self._num_spikes < rule.patience_steps:
            return None
        words = f"{score:.1f} robust standard deviations above its median, {median(self._losses):.4g}"
        return Instability(self.num_bad, f"the loss was {loss:.4g}, {words}")


def spike_score(loss: float, before: Iterable[float], rule: SpikeConfig) -> float:
    """Return how many robust standard deviations a loss lies above the median of those before; 0 while they are few.

    It is the modified z-score (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993), one-sided.
    """
    values = list(before)
    if 2 * len(values) < rule.window_steps:
        return 0.0
    middle = median(values)
    spread = MAD_TO_SIGMA * median(abs(value - middle) for value in values)
    return (loss - middle) / max(spread, 1e-6 * abs(middle), math.ulp(1.0))


def num_steps_remembered(config: StabilityConfig) -> int:
    """Return how many of the last steps a detector's results depend on, and an instability may consist of."""
    window, patience = (config.spikes.window_steps, config.spikes.patience_steps) if config.spikes else (1, 1)
    return 4 * window + (patience + 1) * (config.max_skipped_steps + 1)
