"""The command `concord`. Nothing heavy is imported before it is needed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from configs.base import ConfigError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw text in many languages to an evaluated, exported model, by one recipe.",
)
out = Console(highlight=False, soft_wrap=True)

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe, a YAML file.", metavar="RECIPE")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as steps.model.config.seed=1. Repeatable."),
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", metavar="NAME", help="Shipped cluster file by name, or the path of one.")
]


@app.command()
def run(recipe: RecipeArgument, cluster: ClusterOption = "local", overrides: SetOption = None) -> None:
    """Make what the recipe wants; go on where an earlier run was stopped; reuse what is there."""
    from pipeline.commands import run_recipe

    run_recipe(recipe, cluster, tuple(overrides or ()), out)


@app.command()
def plan(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Say what `run` would reuse and what it would make, and do nothing."""
    from pipeline.commands import show_plan

    show_plan(recipe, tuple(overrides or ()), out)


@app.command()
def status(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Say how far each step is, and who is working on it."""
    from pipeline.commands import show_status

    show_status(recipe, tuple(overrides or ()), out)


@app.command()
def lineage(
    artifact: Annotated[Path, typer.Argument(help="Directory of an artifact in a store.", metavar="ARTIFACT")],
) -> None:
    """Say what an artifact was made from, back to the sources."""
    from pipeline.lineage import render_lineage

    out.print(render_lineage(artifact), markup=False)


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
    from pipeline.show_seen import show_document, show_seen

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


def main() -> None:
    """Entry point: a user's mistake gives one sentence on standard error, our own bugs a traceback."""
    try:
        app()
    except UserError as error:
        print(f"concord: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
