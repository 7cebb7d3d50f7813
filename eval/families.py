"""Tasks without their languages: means over languages, chance, the worst language, scripts, and what is not covered."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from configs.data.languages import usual_script
from configs.evaluation import CONTINUATION
from eval.manifests import Scores, TaskScore

_FAR = 3.0
"""Errors that an untrained network's score may be from chance: of 370 sound tasks one is called unsound."""


@dataclass(frozen=True)
class Family:
    """A task in all languages that it was scored in."""

    name: str
    scores: Sequence[TaskScore]
    """Those that did not fail, at least one."""

    untrained: Sequence[TaskScore] = ()
    """What a small untrained network scored in it."""

    @property
    def label(self) -> str:
        """The name, and whether less is better."""
        return self.name if self.higher_is_better else f"{self.name} (less is better)"

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is a better one."""
        return all(one.higher_is_better for one in self.scores)

    @property
    def value(self) -> float:
        """The mean over languages, all with the same weight."""
        return _mean([value_of(one) for one in self.scores])

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean, from those of the languages; None if one has none.

        Where questions may be the same in each language, translated, it is the mean of the intervals, which holds
        however alike the languages' errors are; it may be wider than it had to be. Those of `continuation`, which have
        documents of their own, are independent.
        """
        bounds = [(one.low, one.high) for one in self.scores if one.low is not None and one.high is not None]
        if not bounds or len(bounds) < len(self.scores):
            return None
        if self.name == CONTINUATION and len(bounds) > 1:
            half = sqrt(sum((high - low) ** 2 for low, high in bounds)) / 2 / len(bounds)
            return (self.value - half, self.value + half)
        return _mean([low for low, _ in bounds]), _mean([high for _, high in bounds])

    @property
    def chance(self) -> float | None:
        """The mean score of a guess; None where nothing is chosen."""
        chances = [one.chance for one in self.scores if one.chance is not None]
        return _mean(chances) if len(chances) == len(self.scores) else None

    @property
    def above_chance(self) -> float | None:
        """The mean of chance-adjusted scores, 0 for a guess and 1 for all right; None without chance."""
        return None if self.chance is None else _mean([adjusted(one) or 0.0 for one in self.scores])

    @property
    def is_above_chance(self) -> bool:
        """Whether the interval lies on the better side of chance."""
        if self.chance is None or self.interval is None:
            return False
        return self.interval[0] > self.chance if self.higher_is_better else self.interval[1] < self.chance

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks against it: no untrained network was asked, or it scores about chance in it."""
        if not self.is_checked:
            return True
        control = Family(self.name, self.untrained)
        assert control.interval is not None and control.chance is not None
        half = (control.interval[1] - control.interval[0]) / 2
        return abs(control.value - control.chance) <= half / 1.96 * _FAR

    @property
    def is_checked(self) -> bool:
        """Whether an untrained network was asked, and its score has an interval and a chance."""
        control = Family(self.name, self.untrained)
        return control.interval is not None and control.chance is not None

    @property
    def is_headline(self) -> bool:
        """Whether its score may stand for knowledge: it is sound, and was checked or is so by construction."""
        return self.is_sound and (self.is_checked or self.name == CONTINUATION)

    @property
    def worst(self) -> TaskScore:
        """The language with the lowest score, or where less is better the highest."""
        sign = 1 if self.higher_is_better else -1
        return min(self.scores, key=lambda one: (sign * value_of(one), one.language))

    @property
    def num_worst(self) -> int:
        """How many languages have the score of the worst."""
        return sum(value_of(one) == value_of(self.worst) for one in self.scores)

    @property
    def by_script(self) -> Mapping[str, float]:
        """The mean of each script, as `Cyrl`, over its languages; of languages without a script nothing."""
        groups: dict[str, list[float]] = {}
        for one in self.scores:
            if script := usual_script(one.language):
                groups.setdefault(script, []).append(value_of(one))
        return {script: _mean(values) for script, values in sorted(groups.items())}

    def missing(self, languages: Collection[str]) -> list[str]:
        """Return those of the languages that it has no score in; none for a task of no language."""
        covered = {one.language for one in self.scores}
        return [] if covered == {"und"} else sorted(set(languages) - covered)


def find_families(scores: Scores) -> list[Family]:
    """Return the tasks without their languages, in the order in which they come, those alone that did not all fail."""
    return group_families(scores.tasks, scores.untrained)


def group_families(tasks: Sequence[TaskScore], untrained: Sequence[TaskScore]) -> list[Family]:
    """Return the same of rows of a model, and of an untrained network."""
    controls = _grouped(untrained)
    return [Family(name, own, controls.get(name, ())) for name, own in _grouped(tasks).items()]


def _grouped(tasks: Sequence[TaskScore]) -> dict[str, list[TaskScore]]:
    groups: dict[str, list[TaskScore]] = {}
    for one in tasks:
        if one.value is not None:
            groups.setdefault(one.family, []).append(one)
    return groups


def adjusted(score: TaskScore) -> float | None:
    """Return (score - chance) / (1 - chance), or where less is better (chance - score) / chance: 1 if all is right.

    None where there is no chance, or where nothing is better than it.
    """
    if score.chance is None or not (score.chance < 1 if score.higher_is_better else score.chance > 0):
        return None
    gain = value_of(score) - score.chance
    return gain / (1 - score.chance) if score.higher_is_better else -gain / score.chance


def beats_chance(score: TaskScore, *others: float) -> bool:
    """Return whether a score's interval lies on the better side of chance and of all others.

    False if it has no interval, or if there is neither chance nor another score.
    """
    known: list[float] = [*others, *(() if score.chance is None else (score.chance,))]
    if score.low is None or score.high is None or not known:
        return False
    return score.low > max(known) if score.higher_is_better else score.high < min(known)


def value_of(score: TaskScore) -> float:
    """Return the score of a task that did not fail."""
    assert score.value is not None
    return score.value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
