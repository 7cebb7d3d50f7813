"""The parts of the page about what the model scored: bits by language and domain, over checkpoints, beside others."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from eval.families import find_families
from eval.manifests import BaselineScores, BitsPerByte, BitsPerSentence, Scores, mean_scores
from pipeline.report.charts import Bar, BarChart, LineChart, Reference, bar_chart, line_chart
from pipeline.report.tables import NOTHING, Table, split, without_places
from pipeline.report.tasks import MOST_FAILURES, marked_name, scripts_table, share, tasks_part
from training.manifests import counted


def scores_parts(scores: Scores | None) -> dict[str, Any]:
    """Return the parts of the page about scores, by their names in the template; each None if there are no scores."""
    makers: dict[str, Callable[[Scores], Any]] = {
        "bits": bits_charts,
        "sentences": sentences_table,
        "scripts": scripts_table,
        "curves": curve_charts,
        "fewer_languages": fewer_languages,
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


def sentences_table(scores: Scores) -> Table | None:
    """Return the bits per parallel sentence of each language, from the best to the worst; None if none were scored."""
    ordered = sorted(scores.bits_per_sentence.items(), key=lambda item: (item[1].bits_per_sentence, item[0]))
    if not ordered:
        return None
    best = ordered[0][1].bits_per_sentence
    rows = [
        (
            language,
            f"{one.bits_per_sentence:,.1f}",
            _bits_interval(one, decimals=1),
            f"{one.bits_per_sentence / best:.2f}" if best else NOTHING,
            f"{one.num_sentences:,}",
        )
        for language, one in ordered
    ]
    return Table(
        "Bits per sentence, over sentences that say the same in each language",
        ("Language", "Bits", "95% interval", "Times the best", "Sentences"),
        rows,
        sorted_by=(1, "ascending"),
    )


def curve_charts(scores: Scores) -> list[LineChart]:
    """Return what checkpoints scored by step: the mean bits per byte, and tasks; none if fewer than two were scored."""
    scored = [one for one in scores.curve if not one.failure]
    if len(scored) < 2:
        return []
    bits = [(one.step, sum(one.bits_per_byte.values()) / len(one.bits_per_byte)) for one in scored if one.bits_per_byte]
    names = dict.fromkeys(name for one in scored for name in one.tasks)
    families = {family.name: family for family in find_families(scores)}
    charts = [line_chart(bits, title="Bits per byte by step, the mean of languages", x_label="step", height=150)]
    for name in names:
        points = [(one.step, one.tasks[name]) for one in scored if name in one.tasks]
        family = families.get(name)
        known = () if family is None or family.chance is None else (Reference("chance", family.chance),)
        title = f"{marked_name(family) if family else name} by step"
        charts.append(line_chart(points, title=title, x_label="step", height=150, references=known))
    return charts


def fewer_languages(scores: Scores) -> list[str]:
    """Return a sentence on each task whose mean is over fewer languages at some checkpoints than at others."""
    scored = [one for one in scores.curve if not one.failure and (one.num_languages or one.failed)]
    sentences = []
    for name in dict.fromkeys(name for one in scored for name in one.num_languages):
        most = max(one.num_languages.get(name, 0) for one in scored)
        steps: dict[int, list[str]] = {}
        for one in scored:
            if (number := one.num_languages.get(name, 0)) < most:
                steps.setdefault(number, []).append(f"{one.step:,}")
        if steps:
            told = [f"over {number:,} at step {', '.join(own)}" for number, own in sorted(steps.items()) if number]
            told += [f"there is none at step {', '.join(own)}" for number, own in steps.items() if not number]
            sentences.append(f"{name}: the mean is over {counted(most, 'language')}, but {'; '.join(told)}.")
    return sentences


def failed_checkpoints(scores: Scores) -> list[tuple[str, str]]:
    """Return the checkpoints that could not be scored, and the other models, with why."""
    failed = [(f"step {one.step:,}", one.failure) for one in scores.curve if one.failure][:MOST_FAILURES]
    failed += [(name, other.failure) for name, other in scores.baselines.items() if other.failure]
    return [(name, without_places(failure)) for name, failure in failed]


def domains_table(scores: Scores) -> Table | None:
    """Return the bits per byte of the recipe's domains; None if it has none."""
    rows = [
        (name, f"{one.bits_per_byte:.3f}", _bits_interval(one), f"{one.num_documents:,}")
        for name, one in scores.bits_per_byte_by_domain.items()
    ]
    return Table("Bits per byte by domain", ("Domain", "Bits", "95% interval", "Documents"), rows) if rows else None


def baselines_table(scores: Scores) -> Table | None:
    """Return what other models scored on the same, in the mean over languages; None if there are none."""
    others = {name: other for name, other in scores.baselines.items() if not other.failure}
    if not others:
        return None
    models: list[Scores | BaselineScores] = [scores, *others.values()]
    bits = [[one.bits_per_byte for one in model.bits_per_byte.values()] for model in models]
    rows = [("bits per byte", *(f"{sum(own) / len(own):.3f}" if own else NOTHING for own in bits))]
    marked = {family.name: marked_name(family) for family in find_families(scores)}
    means = [mean_scores(model.tasks) for model in models]
    for name in dict.fromkeys(name for own in means for name in own):
        cells = [own.get(name) for own in means]
        rows.append(
            (
                marked.get(name, name),
                *(NOTHING if cell is None else share(cell[0], is_share=cell[1] is not None) for cell in cells),
            )
        )
    return Table("Beside other models, the mean over languages", ("Measure", "This model", *others), rows)


def _bits_interval(score: BitsPerByte | BitsPerSentence, *, decimals: int = 2) -> str:
    if score.low is None or score.high is None:
        return NOTHING
    return f"{score.low:,.{decimals}f} to {score.high:,.{decimals}f}"
