"""The command `concord`. Nothing heavy is imported before it is needed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from configs.base import ConfigError, UserError
from pipeline.cli.options import ClusterOption, RecipeArgument, SetOption, StoreOption, WorkOption
from pipeline.cli.runs import add_commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw text in many languages to an evaluated, exported model, by one recipe.",
)
out = Console(highlight=False, soft_wrap=True)


@app.command()
def run(recipe: RecipeArgument, cluster: ClusterOption = "local", overrides: SetOption = None) -> None:
    """Make what the recipe wants; go on where an earlier run was stopped; reuse what is there."""
    from pipeline.run import run_recipe

    run_recipe(recipe, cluster, tuple(overrides or ()), out)


@app.command()
def plan(
    recipe: RecipeArgument,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME", help="Also lay the training out on this cluster.")
    ] = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what `run` would reuse and make, and why; with --cluster what it needs. Exit code 3: it does not fit."""
    from pipeline.cli.show_plan import show_plan

    if not show_plan(recipe, cluster, tuple(overrides or ()), out, as_json=as_json):
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
def status(
    subject: Annotated[str, typer.Argument(help="A run's id, or a recipe.", metavar="RUN|RECIPE")],
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    once: Annotated[bool, typer.Option("--once", help="Do not keep up with a run that goes on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (of a run).")] = False,
) -> None:
    """Say how far a run, or each step of a recipe, is; on a terminal a page that keeps up with the run."""
    if _is_recipe(subject):
        from pipeline.cli.status import show_status

        show_status(Path(subject), tuple(overrides or ()), out, work_dir=work_dir)
        return
    from pipeline.cli.show_run import show_run
    from pipeline.runs.directory import open_run

    show_run(open_run(store, subject, work_dir=work_dir), out, live=not once, as_json=as_json)


@app.command()
def lineage(
    subject: Annotated[
        str, typer.Argument(help="Directory of an artifact in a store, or a run's id.", metavar="ARTIFACT|RUN")
    ],
    store: StoreOption = "store",
    work_dir: WorkOption = None,
) -> None:
    """Say what an artifact, or the outputs of a run, were made from, back to the sources."""
    if "/" in subject or Path(subject, "record.json").exists():
        from pipeline.store.lineage import render_lineage

        out.print(render_lineage(Path(subject)), markup=False)
        return
    from pipeline.cli.show_run import show_run_lineage
    from pipeline.runs.directory import open_run

    show_run_lineage(open_run(store, subject, work_dir=work_dir), out)


@app.command()
def seen(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="DIRECTORY", help="A checkpoint, or a finished training: its last.")
    ],
    document: Annotated[
        str | None, typer.Option("--document", metavar="ID", help="Say when this document was read.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how much of each source and language a checkpoint has read, or when it read a document."""
    from pipeline.cli.show_seen import show_document, show_seen

    if document is None:
        show_seen(checkpoint, out, as_json=as_json)
    else:
        show_document(checkpoint, document, out, as_json=as_json)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="`recipe` or `cluster`.", metavar="KIND")] = "recipe",
) -> None:
    """Print the JSON Schema of recipes or of cluster files, for editors."""
    from configs.cluster import ClusterConfig
    from configs.run import RunConfig

    models: dict[str, Any] = {"recipe": RunConfig, "cluster": ClusterConfig}
    if kind not in models:
        raise ConfigError(f"there is no schema of {kind!r}; ask for `recipe` or `cluster`")
    print(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | models[kind].model_json_schema()))


add_commands(app)


def _is_recipe(subject: str) -> bool:
    from configs.load import SHIPPED

    exists = Path(subject).is_file() or (SHIPPED / "recipes" / f"{subject}.yaml").exists()
    return exists or Path(subject).suffix in (".yaml", ".yml")


def main() -> None:
    """Run the command: a user's mistake gives one sentence on standard error, a bug of ours a traceback."""
    try:
        app()
    except UserError as error:
        print(f"concord: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
