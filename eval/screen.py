"""Tells which tasks give signal at a model's scale, from what its checkpoints scored.

After the criteria of FineTasks (Hugging Face, 2024): a task's score is better than chance and an untrained network's,
or than 0 where neither is known, gets better with training, and does so by more than it varies from one checkpoint to
the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from scipy import stats

from configs.base import UserError
from eval.families import beats_chance
from eval.manifests import Scores, TaskScore

LEAST_CHECKPOINTS = 4
LEAST_CORRELATION = 0.5
LEAST_SIGNAL_TO_NOISE = 2.0


@dataclass(frozen=True)
class Signal:
    """What a task shows of a training."""

    task: str
    num_checkpoints: int
    num_above_chance: int
    """Languages whose interval at the last checkpoint is on the better side of what `compared_with` says."""

    compared_with: str
    """What knows nothing, that scores are compared with: a guess, an untrained network, both, or the score 0 of what is
    no choice. Empty where there is nothing: no chance, no untrained network, and less is better."""

    num_languages: int
    correlation: float
    """Spearman's, of the score with the step; where less is better, of the score's negative."""

    signal_to_noise: float
    """The rise over the typical change from one checkpoint to the next against the trend."""

    @property
    def is_signal(self) -> bool:
        """Whether the task tells checkpoints of this model apart."""
        if self.num_checkpoints < LEAST_CHECKPOINTS:
            return False
        rises = self.correlation >= LEAST_CORRELATION and self.signal_to_noise >= LEAST_SIGNAL_TO_NOISE
        return rises and 2 * self.num_above_chance > self.num_languages


def screen(scores: Scores) -> list[Signal]:
    """Return what each task shows. Raises UserError if too few checkpoints were scored."""
    curve = [one for one in scores.curve if not one.failure]
    if len(curve) < LEAST_CHECKPOINTS:
        raise UserError(
            f"{len(curve)} checkpoints were scored, and it takes {LEAST_CHECKPOINTS} to tell a trend; set checkpoints: "
            "every, and have the pool's retention keep more"
        )
    untrained = {(one.task, one.language): one.value for one in scores.untrained}
    found = []
    for name in dict.fromkeys(name for one in curve for name in one.tasks):
        most = max(one.num_languages.get(name, 0) for one in curve)  # means over fewer languages are other numbers
        whole = [one for one in curve if name in one.tasks and one.num_languages.get(name, 0) == most]
        points = [(one.step, one.tasks[name]) for one in whole]
        own = [one for one in scores.tasks if one.family == name]
        floors = [_floors(one, untrained.get((one.task, one.language))) for one in own]
        above = sum(beats_chance(one, *given.values()) for one, given in zip(own, floors, strict=True))
        compared = " and ".join(dict.fromkeys(name for given in floors for name in given))
        sign = 1 if all(one.higher_is_better for one in own) else -1
        values = [sign * value for _, value in points]
        steps = [step for step, _ in points]
        correlation = float(stats.spearmanr(steps, values).statistic) if len(set(values)) > 1 else 0.0
        found.append(Signal(name, len(points), above, compared, len(own), correlation, _signal_to_noise(values)))
    return found


def _floors(score: TaskScore, untrained: float | None) -> dict[str, float]:
    """Return the scores of what knows nothing, by what it is: of a task without chance, such as one of writing, 0."""
    known = {"chance": score.chance, "an untrained network": untrained}
    found = {name: value for name, value in known.items() if value is not None}
    return found or ({"0": 0.0} if score.higher_is_better else {})


def _signal_to_noise(values: Sequence[float]) -> float:
    """Return the rise from the first third to the last over the median of changes less the mean change."""
    third = max(1, len(values) // 3)
    rise = sum(values[-third:]) / third - sum(values[:third]) / third
    changes = [after - before for before, after in pairwise(values)]
    trend = (values[-1] - values[0]) / max(1, len(changes))
    noise = median(abs(change - trend) for change in changes) if changes else 0.0
    return rise / noise if noise else (float("inf") if rise > 0 else 0.0)
