"""The parts of the page about what the model scored: bits per byte, and tasks."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.families import Family, find_families, value_of
from eval.manifests import BaselineScores, BitsPerByte, Scores, TaskScore, family_of, mean_scores
from pipeline.report.charts import Bar, BarChart, LineChart, Reference, bar_chart, line_chart
from pipeline.report.tables import NOTHING, Table, split

MOST_FAILURES = 20
"""Tasks that failed and are told, at most."""


@dataclass(frozen=True)
class TasksPart:
    """What the model scored in tasks."""

    lm_eval_version: str
    overview: Table
    by_language: Sequence[Table]
    """Languages by tasks, for those that are in several languages."""

    unclean: Sequence[str]
    """Tasks whose questions were not looked for in what the model read."""

    failures: Sequence[tuple[str, str]]
    num_unlisted: int


def scores_parts(scores: Scores | None) -> dict[str, Any]:
    """Return the parts of the page about scores, by their names in the template; each None if there are no scores."""
    makers: dict[str, Callable[[Scores], Any]] = {
        "bits": bits_charts,
        "curves": curve_charts,
        "failed_checkpoints": failed_checkpoints,
        "domains": domains_table,
        "tasks": tasks_part,
        "baselines": baselines_table,
    }
    return {name: make(scores) if scores else None for name, make in makers.items()}


def bits_charts(scores: Scores) -> list[BarChart]:
    """Return the bits per byte of each language, from the best to the worst; none if nothing was scored.

    A language that several sources have is shown by source.
    """
    num_sources = Counter(stream.rpartition("/")[2] for stream in scores.bits_per_byte_by_stream)
    by_name = {
        stream if num_sources[language] > 1 else language: score
        for stream, score in scores.bits_per_byte_by_stream.items()
        for language in [stream.rpartition("/")[2]]
    }
    ordered = sorted(by_name.items(), key=lambda item: (item[1].bits_per_byte, item[0]))
    bars = [Bar(name, s.bits_per_byte, f"{s.bits_per_byte:.3f}", _bits_interval(s)) for name, s in ordered]
    return [
        bar_chart(
            run,
            title=f"Bits per byte, {run[0].label} to {run[-1].label}",
            heads=("bits", "95%"),
            maximum=bars[-1].value,
            reference=Reference("mean", scores.mean_bits_per_byte),
        )
        for run in split(bars)
    ]


def curve_charts(scores: Scores) -> list[LineChart]:
    """Return what checkpoints scored by step: the mean bits per byte, and tasks; none if fewer than two were scored."""
    scored = [one for one in scores.curve if not one.failure]
    if len(scored) < 2:
        return []
    bits = [(one.step, sum(one.bits_per_byte.values()) / len(one.bits_per_byte)) for one in scored if one.bits_per_byte]
    names = dict.fromkeys(name for one in scored for name in one.tasks)
    chances = {family.name: family.chance for family in find_families(scores)}
    charts = [line_chart(bits, title="Bits per byte by step, the mean of languages", x_label="step", height=150)]
    for name in names:
        points = [(one.step, one.tasks[name]) for one in scored if name in one.tasks]
        chance = chances.get(name)
        known = () if chance is None else (Reference("chance", chance),)
        charts.append(line_chart(points, title=f"{name} by step", x_label="step", height=150, references=known))
    return charts


def failed_checkpoints(scores: Scores) -> list[tuple[str, str]]:
    """Return the checkpoints that could not be scored, with why."""
    return [(f"step {one.step:,}", one.failure) for one in scores.curve if one.failure][:MOST_FAILURES]


def domains_table(scores: Scores) -> Table | None:
    """Return the bits per byte of the recipe's domains; None if it has none."""
    rows = [
        (name, f"{one.bits_per_byte:.3f}", _bits_interval(one), f"{one.num_documents:,}")
        for name, one in scores.bits_per_byte_by_domain.items()
    ]
    return Table("Bits per byte by domain", ("Domain", "Bits", "95% interval", "Documents"), rows) if rows else None


def baselines_table(scores: Scores) -> Table | None:
    """Return what other models scored on the same, in the mean over languages; None if there are none."""
    if not scores.baselines:
        return None
    models: list[Scores | BaselineScores] = [scores, *scores.baselines.values()]
    bits = [[one.bits_per_byte for one in model.bits_per_byte.values()] for model in models]
    rows = [("bits per byte", *(f"{sum(own) / len(own):.3f}" for own in bits))]
    means = [mean_scores(model.tasks) for model in models]
    for name in dict.fromkeys(name for own in means for name in own):
        cells = [own.get(name) for own in means]
        rows.append(
            (name, *(NOTHING if cell is None else share(cell[0], is_share=cell[1] is not None) for cell in cells))
        )
    return Table("Beside other models, the mean over languages", ("Measure", "This model", *scores.baselines), rows)


def tasks_part(scores: Scores) -> TasksPart | None:
    """Return what the page shows of tasks; None if there were none."""
    if not scores.tasks:
        return None
    families = find_families(scores)
    failed = [(one.task, one.failure) for one in scores.tasks if one.failure]
    heads = ("Task", "Languages", "Score", "95% interval", "Chance", "Above chance in", "Worst", "Questions")
    return TasksPart(
        lm_eval_version=scores.lm_eval_version,
        overview=Table("Tasks, the mean over languages", heads, [_overview(family) for family in families]),
        by_language=_by_language([family for family in families if len(family.scores) > 1]),
        unclean=sorted({family_of(one) for one in scores.tasks if not one.failure and not one.is_decontaminated}),
        failures=failed[:MOST_FAILURES],
        num_unlisted=max(0, len(failed) - MOST_FAILURES),
    )


def share(value: float, *, is_share: bool = True) -> str:
    """Return a score: in percent if it is a share of questions."""
    return f"{value:.1%}" if is_share else f"{value:.3f}"


def _overview(family: Family) -> Sequence[str]:
    has_chance = family.chance is not None
    worst = family.worst
    above = sum(one.low is not None and one.chance is not None and one.low > one.chance for one in family.scores)
    low, high = family.interval or (None, None)
    return (
        family.name,
        f"{len(family.scores):,}",
        share(family.value, is_share=has_chance),
        NOTHING
        if low is None or high is None
        else f"{share(low, is_share=has_chance)} to {share(high, is_share=has_chance)}",
        share(family.chance) if family.chance is not None else NOTHING,
        f"{above:,} of {len(family.scores):,}" if has_chance else NOTHING,
        f"{worst.language} {share(value_of(worst), is_share=has_chance)}" if len(family.scores) > 1 else NOTHING,
        f"{sum(one.num_questions for one in family.scores):,}",
    )


def _by_language(families: Sequence[Family]) -> Sequence[Table]:
    """Return the scores of each language in each task, with half of its interval; side by side where there are many."""
    cells = {(one.language, family.name): one for family in families for one in family.scores}
    languages = sorted({language for language, _ in cells})
    rows = [[language, *(_cell(cells.get((language, family.name))) for family in families)] for language in languages]
    heads = ("Language", *(family.name for family in families))
    runs = split(rows, max_columns=1 if len(families) > 2 else 3) if rows else []
    return [Table(f"{run[0][0]} to {run[-1][0]}", heads, run) for run in runs]


def _cell(score: TaskScore | None) -> str:
    if score is None:
        return NOTHING
    text = share(value_of(score), is_share=score.chance is not None)
    if score.low is None or score.high is None or score.chance is None:
        return text
    return f"{text} \u00b1 {(score.high - score.low) / 2:.0%}{'' if score.low > score.chance else '*'}"


def _bits_interval(score: BitsPerByte) -> str:
    return NOTHING if score.low is None or score.high is None else f"{score.low:.2f} to {score.high:.2f}"
