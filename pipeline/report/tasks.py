"""The part of the page about tasks: means over languages with chance and coverage, scripts, languages by tasks."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from configs.data.languages import usual_script
from eval.families import Family, adjusted, beats_chance, find_families, value_of
from eval.manifests import Scores, TaskScore
from pipeline.report.tables import HIGHEST_LEVEL, NOTHING, Table, without_places

MOST_FAILURES = 20
"""Tasks that failed and are told, at most."""

UNSOUND = "\u2020"
"""Stands behind the name of a task that an untrained network does not answer by chance."""

FAILED = "failed"
"""Stands in place of the score of a task that failed in all its parts."""

_BOUNDS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Chance-adjusted scores at which the next level of the heat map begins."""

_MOST_WORST = 10
_NO_LANGUAGE = "und"


@dataclass(frozen=True)
class TasksPart:
    """What the model scored in tasks."""

    lm_eval_version: str
    overview: Table
    unsound: Sequence[str]
    """A sentence on each task that an untrained network does not answer by chance."""

    unchecked: Sequence[str]
    """Tasks with a chance that no untrained network was asked in."""

    has_cut_off: bool
    """Whether a request of any task was longer than the model's context."""

    has_less_is_better: bool
    """Whether there is a task with a chance in which less is better."""

    missing: Sequence[str]
    """A sentence on each task that does not cover all languages, with those that it lacks."""

    worst: Table | None
    """The languages that the model is worst in; None if there are not several."""

    by_language: Table | None
    """Languages by tasks, a heat map; None if there are not several languages."""

    levels: Sequence[tuple[int, str]]
    """The levels of the heat map, with what each stands for."""

    unclean: Sequence[str]
    """Tasks whose questions were not looked for in what the model read."""

    failures: Sequence[tuple[str, str]]
    num_unlisted: int


def tasks_part(scores: Scores) -> TasksPart | None:
    """Return what the page shows of tasks; None if there were none."""
    if not scores.tasks:
        return None
    families = find_families(scores)
    wanted = wanted_languages(scores)
    failed = [(one.task, without_places(one.failure)) for one in scores.tasks if one.failure]
    with_chance = [family for family in families if family.chance is not None]
    return TasksPart(
        lm_eval_version=scores.lm_eval_version,
        overview=_overview_table(scores, families, wanted),
        unsound=[_why_unsound(family) for family in families if not family.is_sound],
        unchecked=[family.name for family in with_chance if family.is_sound and not family.is_headline],
        has_cut_off=any(one.num_truncated for family in families for one in family.scores),
        has_less_is_better=not all(family.higher_is_better for family in with_chance),
        missing=[sentence for family in families if (sentence := _missing(family, wanted))],
        worst=_worst_languages(families),
        by_language=_heat_map(families, wanted),
        levels=_legend(),
        unclean=sorted({one.family for one in scores.tasks if not one.failure and not one.is_decontaminated}),
        failures=failed[:MOST_FAILURES],
        num_unlisted=max(0, len(failed) - MOST_FAILURES),
    )


def headlines(scores: Scores, *, most: int = 2) -> list[tuple[str, str]]:
    """Return the first tasks that stand for knowledge and are better than chance, with interval and coverage."""
    wanted = wanted_languages(scores)
    shown = []
    for family in find_families(scores):
        if family.is_headline and family.is_above_chance and family.interval is not None:
            low, high = family.interval
            lacking = f", {coverage(family, wanted)} languages" if family.missing(wanted) else ""
            name = f"{family.label}{lacking}, chance {family.chance:.0%}"
            shown.append((name, f"{family.value:.0%} ({100 * low:.0f}\u00a0to\u00a0{high:.0%})"))
    return shown[:most]


def wanted_languages(scores: Scores) -> Sequence[str]:
    """Return the languages that scores were wanted in; of scores that do not say it, those of the held-out text."""
    return scores.languages or tuple(scores.bits_per_byte)


def coverage(family: Family, wanted: Sequence[str]) -> str:
    """Return how many of the wanted languages a task has a score in, as `12 of 14`; a dash for one of no language."""
    covered = {one.language for one in family.scores}
    if covered == {_NO_LANGUAGE}:
        return NOTHING
    others = len(covered - set(wanted))
    text = f"{len(covered) - others:,} of {len(wanted):,}"
    return f"{text}, and {others:,} more" if others else text


def share(value: float, *, is_share: bool = True) -> str:
    """Return a score: in percent if it is a share of questions."""
    return f"{value:.1%}" if is_share else f"{value:.3f}"


def marked_name(family: Family) -> str:
    """Return a task's name, with a mark if an untrained network does not answer it by chance."""
    return family.label if family.is_sound else f"{family.label} {UNSOUND}"


def scripts_table(scores: Scores) -> Table | None:
    """Return the means over the languages of each script, the one of most languages first; None if there is one only.

    Languages whose script is not known are in no row.
    """
    families = [family for family in find_families(scores) if family.by_script]
    groups = _by_script([*wanted_languages(scores), *scores.bits_per_byte, *_languages(families)])
    if len(groups) < 2:
        return None
    rows = []
    for script, languages in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        bits = [scores.bits_per_byte[one].bits_per_byte for one in languages if one in scores.bits_per_byte]
        means = [(family.by_script.get(script), family.chance is not None) for family in families]
        rows.append(
            [
                script,
                f"{len(languages):,}",
                f"{sum(bits) / len(bits):.3f}" if bits else NOTHING,
                *(NOTHING if mean is None else share(mean, is_share=is_share) for mean, is_share in means),
            ]
        )
    heads = ("Script", "Languages", "Bits per byte", *map(marked_name, families))
    return Table("By script, the mean over its languages", heads, rows, sorted_by=(1, "descending"))


def _by_script(languages: Iterable[str]) -> dict[str, list[str]]:
    groups = defaultdict[str, list[str]](list)
    for language in dict.fromkeys(languages):
        if script := usual_script(language):
            groups[script].append(language)
    return groups


def _languages(families: Sequence[Family]) -> list[str]:
    return sorted({one.language for family in families for one in family.scores} - {_NO_LANGUAGE})


def _why_unsound(family: Family) -> str:
    value = sum(value_of(one) for one in family.untrained) / len(family.untrained)
    chance = sum(one.chance or 0.0 for one in family.untrained) / len(family.untrained)
    return (
        f"{UNSOUND} {family.name}: an untrained network scores {share(value)} where a guess gives {share(chance)}, so "
        "this task can be answered without knowledge and is no headline."
    )


def _missing(family: Family, wanted: Sequence[str]) -> str:
    """Say in which of the wanted languages a task has no score; empty if it has one in all."""
    if not (lacking := family.missing(wanted)):
        return ""
    return f"{family.name} has no score in {len(lacking):,} of {len(wanted):,} languages: {', '.join(lacking)}."


def _overview_table(scores: Scores, families: Sequence[Family], wanted: Sequence[str]) -> Table:
    """Return a row for each task, in the order in which they come; one that failed in all languages has no numbers."""
    known = ("Task", "Languages", "Score", "95% interval", "Chance", "Chance-adjusted")
    heads = (*known, "Better than chance in", "Worst language", "Questions", "Cut off")
    rows = {family.name: _overview(family, wanted) for family in families}
    names = dict.fromkeys(one.family for one in scores.tasks)
    failed = (NOTHING, FAILED, *[NOTHING] * (len(heads) - 3))
    return Table("Tasks, the mean over languages", heads, [rows.get(name, (name, *failed)) for name in names])


def _overview(family: Family, wanted: Sequence[str]) -> Sequence[str]:
    has_chance = family.chance is not None
    worst = family.worst
    better = sum(beats_chance(one) for one in family.scores)
    cut_off = sum(one.num_truncated for one in family.scores)
    low, high = family.interval or (None, None)
    return (
        marked_name(family),
        coverage(family, wanted),
        share(family.value, is_share=has_chance),
        NOTHING
        if low is None or high is None
        else f"{share(low, is_share=has_chance)} to {share(high, is_share=has_chance)}",
        share(family.chance) if family.chance is not None else NOTHING,
        share(family.above_chance) if family.above_chance is not None else NOTHING,
        f"{better:,} of {len(family.scores):,}" if has_chance else NOTHING,
        _worst_cell(family, worst) if len(family.scores) > 1 else NOTHING,
        f"{sum(one.num_questions for one in family.scores):,}",
        f"{cut_off:,}" if cut_off else NOTHING,
    )


def _worst_cell(family: Family, worst: TaskScore) -> str:
    """Return the worst language with its score, and how many others have the same."""
    others = f" (and {family.num_worst - 1:,} more)" if family.num_worst > 1 else ""
    return f"{worst.language} {share(value_of(worst), is_share=family.chance is not None)}{others}"


def _worst_languages(families: Sequence[Family]) -> Table | None:
    """Return the languages with the lowest means of chance-adjusted scores over the sound tasks."""
    found = defaultdict[str, list[tuple[float, str]]](list)
    for family in families:
        for one in family.scores if family.is_sound else ():
            if (score := adjusted(one)) is not None and one.language != _NO_LANGUAGE:
                found[one.language].append((score, family.name))
    means = sorted((sum(score for score, _ in own) / len(own), language) for language, own in found.items())
    if len(means) < 2:
        return None
    rows = [
        (language, share(mean), f"{len(found[language]):,}", "{1} {0:.1%}".format(*min(found[language])))
        for mean, language in means[:_MOST_WORST]
    ]
    heads = ("Language", "Chance-adjusted", "Tasks", "Worst task")
    what = "tasks" if all(family.is_sound for family in families) else f"tasks without {UNSOUND}"
    tied = sum(mean == means[_MOST_WORST - 1][0] for mean, _ in means[_MOST_WORST:]) if len(means) > _MOST_WORST else 0
    more = f"; {tied:,} more are at {rows[-1][1]} like the last" if tied else ""
    return Table(f"The worst languages, by the mean over {what}{more}", heads, rows, sorted_by=(1, "ascending"))


def _heat_map(families: Sequence[Family], wanted: Sequence[str]) -> Table | None:
    """Return the scores of each language in each task, with half of its interval, coloured by chance-adjusted score."""
    shown = [family for family in families if _languages([family])]
    languages = sorted({*wanted, *_languages(shown)})
    if not shown or len(languages) < 2:
        return None
    found = {(one.language, family.name): one for family in shown for one in family.scores}
    scores = [[found.get((language, family.name)) for family in shown] for language in languages]
    return Table(
        caption="Languages by tasks",
        heads=("Language", *map(marked_name, shown)),
        rows=[[language, *map(_cell, row)] for language, row in zip(languages, scores, strict=True)],
        levels=[[_level(one) for one in row] for row in scores],
        sorted_by=(0, "ascending"),
    )


def _cell(score: TaskScore | None) -> str:
    if score is None:
        return NOTHING
    text = share(value_of(score), is_share=score.chance is not None)
    if score.low is None or score.high is None or score.chance is None:
        return text
    return f"{text} \u00b1 {(score.high - score.low) / 2:.0%}{'' if beats_chance(score) else '*'}"


def _level(score: TaskScore | None) -> int | None:
    """Return the level of a cell's colour, 0 if it is worse than chance; None where there is no chance."""
    value = None if score is None else adjusted(score)
    return None if value is None else bisect_right(_BOUNDS, value)


def _legend() -> list[tuple[int, str]]:
    ends = [f"below {_BOUNDS[0]:.0%}", *(f"{a:.0%} to {b:.0%}" for a, b in pairwise(_BOUNDS))]
    return list(zip(range(HIGHEST_LEVEL + 1), [*ends, f"{_BOUNDS[-1]:.0%} and more"], strict=True))
