"""The command `concord`. Nothing heavy is imported before it is needed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from configs.base import ConfigError, UserError
from pipeline.cli.completion import complete_cluster
from pipeline.cli.evaluation.commands import commands as evaluations
from pipeline.cli.options import (
    ClusterOption,
    ProfileOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    SubjectArgument,
    WorkOption,
)
from pipeline.cli.runs import add_commands

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From raw text in many languages to an evaluated, exported model, by one recipe.",
)
out = Console(highlight=False, soft_wrap=True)


@app.command()
def run(
    recipe: RecipeArgument,
    cluster: ClusterOption = "local",
    overrides: SetOption = None,
    profile: ProfileOption = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="last|best|STEP",
            help="Only evaluate and export this checkpoint of the trainings, which need not be finished.",
        ),
    ] = None,
) -> None:
    """Make what the recipe wants; go on where an earlier run was stopped; reuse what is there."""
    from pipeline.recipe import read_recipe

    loaded = read_recipe(recipe, tuple(overrides or ()))  # before what would make it is imported, which takes longer
    from pipeline.run import run_recipe

    run_recipe(loaded, cluster, out, profile=profile, checkpoint=checkpoint)


@app.command()
def plan(
    recipe: RecipeArgument,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="NAME",
            help="Also lay the training out on this cluster.",
            autocompletion=complete_cluster,
        ),
    ] = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what `run` would reuse and make, and why; with --cluster what it needs. Exit code 3: it does not fit."""
    from pipeline.recipe import read_recipe

    loaded = read_recipe(recipe, tuple(overrides or ()))  # before what would make it is imported, which takes longer
    from pipeline.cli.show_plan import show_plan

    if not show_plan(loaded, cluster, out, as_json=as_json):
        raise typer.Exit(3)


@app.command()
def doctor(
    cluster: ClusterOption = "local",
    store: StoreOption = "store",
    quick: Annotated[bool, typer.Option("--quick", help="Only what `submit` looks at.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Also write this .tar.gz for a bug report."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Put the logs of this run into the bundle, too.")
    ] = None,
) -> None:
    """Look at this machine and a cluster's nodes for what would go wrong, and say how to mend it."""
    from pipeline.cli.show_doctor import show_doctor

    if not show_doctor(cluster, out, as_json=as_json, quick=quick, bundle=bundle, store=store, run=run):
        raise typer.Exit(1)


@app.command()
def conform(
    record: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write the record; conform.json if left out.")
    ] = None,
    against: Annotated[Path | None, typer.Option("--against", metavar="FILE", help="Compare with this record.")] = None,
    show: Annotated[
        Path | None, typer.Option("--show", metavar="FILE", help="Print this record, and run nothing.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models: what is right, but not how fast.")] = False,
) -> None:
    """Check this machine's accelerator in ten minutes, without a corpus, and write a comparable record."""
    from pipeline.cli.conform import conform as run_conform

    if not run_conform(out, record=record, against=against, show=show, quick=quick):
        raise typer.Exit(1)


@app.command()
def status(
    subject: SubjectArgument = None,
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    once: Annotated[bool, typer.Option("--once", help="Do not keep up with a run that goes on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how far a run, a recipe or a step of it is; on a terminal a page that keeps up with a run."""
    from pipeline.cli.show_run import show_run
    from pipeline.cli.status import show_artifact, show_steps
    from pipeline.cli.subject import ArtifactSubject, find_subject

    found = find_subject(subject, store=store, work_dir=work_dir, overrides=overrides)
    if isinstance(found, ArtifactSubject):
        show_artifact(found, out, as_json=as_json)
    elif found.run is not None and found.step is None:
        show_run(found.run, out, live=not once, as_json=as_json)
    else:
        show_steps(found, out, as_json=as_json)


@app.command()
def lineage(
    subject: SubjectArgument = None,
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
) -> None:
    """Say what an artifact, or the outputs of a run or recipe, were made from, back to the sources."""
    from pipeline.cli.show_lineage import show_lineage
    from pipeline.cli.subject import find_subject

    show_lineage(find_subject(subject, store=store, work_dir=work_dir, overrides=overrides), out)


@app.command()
def seen(
    subject: SubjectArgument = None,
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    document: Annotated[
        str | None, typer.Option("--document", metavar="ID", help="Say when this document was read.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how much of each source and language a model has read, or when it read a document.

    Of a training it is the last checkpoint; a path names another.
    """
    from pipeline.cli.show_seen import show_document, show_seen
    from pipeline.cli.subject import find_artifact, find_subject

    found = find_subject(subject, store=store, work_dir=work_dir, overrides=overrides)
    path = find_artifact(found, stage="train").files_here()
    if document is None:
        show_seen(path, out, as_json=as_json)
    else:
        show_document(path, document, out, as_json=as_json)


@app.command()
def sample(
    at: Annotated[int, typer.Option("--at", metavar="STEP", help="The optimizer step, counted from 1.")],
    subject: SubjectArgument = None,
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which documents an optimizer step of a training reads."""
    from pipeline.cli.show_seen import show_samples
    from pipeline.cli.subject import find_artifact, find_subject

    found = find_subject(subject, store=store, work_dir=work_dir, overrides=overrides)
    show_samples(find_artifact(found, stage="train").files_here(), at, out, as_json=as_json)


_SCHEMAS = ("recipe", "cluster", "thresholds", "suite")


@app.command()
def schema(
    kind: Annotated[
        str,
        typer.Argument(
            help="`recipe`, `cluster`, `thresholds` or `suite`.", metavar="KIND", autocompletion=lambda: list(_SCHEMAS)
        ),
    ] = "recipe",
) -> None:
    """Print the JSON Schema of recipes, of cluster files, thresholds of filters, or suites of tasks, for editors."""
    from configs.cluster import ClusterConfig
    from configs.data.filters import Thresholds
    from configs.run import RunConfig
    from configs.tasks import SuiteConfig

    models: dict[str, Any] = dict(zip(_SCHEMAS, (RunConfig, ClusterConfig, Thresholds, SuiteConfig), strict=True))
    if kind not in models:
        raise ConfigError(f"there is no schema of {kind!r}; ask for {', '.join(_SCHEMAS)}")
    print(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | models[kind].model_json_schema()))


add_commands(app)
app.add_typer(evaluations, name="eval")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        from pipeline.store.provenance import code_version

        try:
            number = version("concord-train")
        except PackageNotFoundError:  # the packages alone, as they are sent to a cluster
            number = "(not installed)"
        print(f"concord {number}, code {code_version()}, Python {sys.version.split()[0]}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end."),
    ] = False,
) -> None:
    """From raw text in many languages to an evaluated, exported model, by one recipe."""


def main() -> None:
    """Run the command: a user's mistake gives one sentence on standard error, a bug of ours a traceback."""
    try:
        app()
    except UserError as error:
        print(f"concord: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
