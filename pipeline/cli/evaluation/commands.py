"""`concord eval`: what suites have, and how two models differ."""

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from configs.base import UserError
from pipeline.cli.options import SetOption, StoreOption, WorkOption

if TYPE_CHECKING:
    from eval.compare import Row, Total, Uncompared

commands = typer.Typer(no_args_is_help=True, help="Score models, compare scores, and list the tasks of suites.")
out = Console(highlight=False, soft_wrap=True)
MOST_UNCOMPARED = 20
"""Lines of what two models are not compared by."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A Hugging Face directory, or a training, an export or a checkpoint, as other commands take them.",
        metavar="MODEL",
    ),
]
SuiteOption = Annotated[
    list[str] | None, typer.Option("--suite", metavar="NAME", help="A suite's name or file. Repeatable.")
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="A task's name, file, or FILE.py:FUNCTION. Repeatable."),
]
LanguageOption = Annotated[
    list[str] | None,
    typer.Option("--language", metavar="TAG", help="Take suites' tasks in this one. Repeatable; all if left out."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where scores and answers go; in the store's evaluations/ else."),
]


@commands.command()
def compare(
    first: Annotated[str, typer.Argument(help="An `evaluate` step's artifact, as in `concord lineage`.")],
    second: Annotated[str, typer.Argument(help="Another, of the same held-out text or tasks.")],
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in which languages and tasks the second model is better or worse than the first, or that none can tell.

    Answers are paired by document and question; p-values are corrected for the number of languages.
    """
    from eval.compare import compare as compare_scores
    from pipeline.cli.subject import find_artifact, find_subject

    def find(subject: str) -> Path:
        if (Path(subject) / "samples").is_dir():  # of an artifact, or of a baseline in one
            return Path(subject)
        try:
            found = find_subject(subject, store=store, work_dir=work_dir, overrides=overrides)
        except UserError:
            if Path(subject).is_dir():
                return Path(subject)  # of which it is told that it has no answers
            raise
        return find_artifact(found, stage="evaluate").files_here()

    rows, totals, uncompared = compare_scores(find(first), find(second))
    if as_json:
        told = {"rows": [asdict(row) for row in rows], "totals": [asdict(total) for total in totals]}
        print(json.dumps(_finite(told | {"uncompared": [one._asdict() for one in uncompared]})))
        return
    _print_table(
        [("measure", "language", "difference", "95% interval", "p (Holm)", "of", "verdict"), *map(_cells, rows)]
    )
    _print_totals(totals, rows)
    _print_uncompared(uncompared)


def _print_totals(totals: "list[Total]", rows: "list[Row]") -> None:
    for total in totals:
        given = total.difference
        is_higher = next(row.higher_is_better for row in rows if row.measure == total.measure)
        over = f"{total.num_languages} language{'s' if total.num_languages > 1 else ''}"
        worst = f", the worst {total.worst}" if total.worst is not None else ""
        which = "" if is_higher else "; less is better"
        interval = f"{given.value:+.3f} ({given.low:+.3f} to {given.high:+.3f})"
        out.print(f"{total.measure}: {interval} over {over}{worst}{which}", markup=False)


def _print_uncompared(uncompared: "list[Uncompared]") -> None:
    for one in uncompared[:MOST_UNCOMPARED]:
        out.print(f"not compared: {one.measure} {one.language} ({one.reason})", markup=False)
    if len(uncompared) > MOST_UNCOMPARED:
        out.print(f"and {len(uncompared) - MOST_UNCOMPARED:,} more")


def _cells(row: "Row") -> tuple[str, ...]:
    seen = ""
    if row.is_same:
        seen = " (no difference at all)"
    elif row.verdict == "cannot tell" and row.detectable is not None:
        seen = " (too few)" if row.detectable == float("inf") else f" (from {row.detectable:.3f} on it would show)"
    only = f" (+{row.num_unpaired:,} unpaired)" if row.num_unpaired else ""
    interval = f"{row.difference.low:+.3f} to {row.difference.high:+.3f}"
    numbers = (f"{row.difference.value:+.3f}", interval, f"{row.corrected:.3g}", f"{row.num_paired:,}{only}")
    return row.measure, row.language, *numbers, f"{row.verdict}{seen}"


@commands.command()
def model(
    subject: ModelArgument,
    suites: SuiteOption = None,
    tasks: TaskOption = None,
    languages: LanguageOption = None,
    questions: Annotated[
        int | None, typer.Option("--questions", metavar="N", help="The first N of each task; all if left out.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="Directory of the suites' data.")] = None,
    parallel: Annotated[
        str | None, typer.Option("--parallel", metavar="DIR", help="Directory of parallel sentences.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="last|best|STEP", help="Which checkpoint of a training.")
    ] = "last",
    directory: OutOption = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="NAME", help="Use this cluster's workers; this process alone if left out."),
    ] = None,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Score a model by suites and tasks, without a recipe; go on where an earlier command was stopped."""
    from configs.evaluation import EvaluateConfig
    from configs.load import from_options
    from pipeline.cli.evaluation import on_demand

    given = {"tasks": tasks or [], "suites": suites or [], "languages": languages or [], "data": data}
    config = from_options(EvaluateConfig, given | {"questions_per_task": questions, "parallel": parallel})
    found = on_demand.find_model(subject, store=store, checkpoint=checkpoint)
    where, scores = on_demand.score_on_demand(
        found, config, store=Path(store), out=directory, cluster=cluster, console=None if as_json else out
    )
    if as_json:
        print(on_demand.as_json(where, scores))
        return
    for line in (*on_demand.closing_lines(scores), str(where)):
        out.print(line, markup=False)
    if scores.tasks and all(row.failure for row in scores.tasks):
        raise typer.Exit(1)


@commands.command()
def screen(
    subject: Annotated[str, typer.Argument(help="An `evaluate` step's artifact with `checkpoints: every`.")],
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which tasks give signal at this model's scale: above chance, rising, by more than they waver.

    Tasks without chance are compared with an untrained network's score, if there is one, or with 0.
    """
    from eval.manifests import Scores
    from eval.screen import screen as screen_scores
    from pipeline.cli.subject import find_artifact, find_subject
    from pipeline.store.artifact import load_artifact, read_record

    found = find_artifact(
        find_subject(subject, store=store, work_dir=work_dir, overrides=overrides), stage="evaluate"
    ).files_here()
    record = read_record(found)
    if record is not None and record.stage != "evaluate":
        raise UserError(f"{found} is of stage {record.stage}; name the artifact of an `evaluate` step")
    artifact = load_artifact(found, Scores)
    if artifact is None:
        raise UserError(f"{found} is not finished; wait for it")
    signals = screen_scores(artifact.manifest)
    if as_json:
        print(json.dumps(_finite([asdict(one) | {"is_signal": one.is_signal} for one in signals])))
        return
    heads = ("task", "signal", "better in", "than", "rank correlation with steps", "signal to noise", "checkpoints")
    rows = [
        (
            one.task,
            "yes" if one.is_signal else "no",
            f"{one.num_above_chance} of {one.num_languages}",
            one.compared_with or "nothing that is known",
            f"{one.correlation:+.2f}",
            f"{one.signal_to_noise:.1f}",
            f"{one.num_checkpoints}",
        )
        for one in signals
    ]
    _print_table([heads, *rows])


@commands.command()
def suites(
    name: Annotated[
        str | None, typer.Argument(help="A suite's name, or the path of one. Left out: all that ship.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tasks of suites, with their languages, how a model is asked, licences and sources."""
    from configs.evaluation import EvaluateConfig
    from configs.tasks import SUITES
    from eval.tasks.suites import find_tasks

    rows: list[dict[str, Any]] = []
    for suite in [name] if name else SUITES:
        for task in find_tasks(EvaluateConfig(tasks=(), suites=(suite,))):
            known = {"suite": task.suite, "task": task.name, "language": task.language, "kind": task.kind}
            how = {"formulation": task.formulation, "metric": task.metric, "licence": task.licence}
            rows.append(known | how | {"source": task.source})
    if as_json:
        print(json.dumps(rows))
        return
    _print_table([tuple(rows[0]), *(tuple(str(cell or "") for cell in row.values()) for row in rows)])


def _finite(value: Any) -> Any:
    """Return a value as JSON knows it: without infinite numbers, which become null."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return {key: _finite(one) for key, one in value.items()} if isinstance(value, dict) else value


def _print_table(cells: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    for row in cells:
        out.print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), markup=False)
