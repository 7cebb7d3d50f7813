"""The arguments and options of `concord` that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from configs.base import UserError
from configs.paths import expand_path
from pipeline.cli.completion import complete_cluster, complete_recipe, complete_run, complete_subject

RecipeArgument = Annotated[
    Path,
    typer.Argument(
        help="Recipe, a YAML file, or the name of one that ships.", metavar="RECIPE", autocompletion=complete_recipe
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as steps.model.config.seed=1. Repeatable."),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="Shipped cluster file by name, or the path of one.",
        autocompletion=complete_cluster,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="STEPS",
        help="Record these optimizer steps, such as 10 or 10-12, with torch.profiler, into profile/ of the training.",
    ),
]
AnotherClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="Another cluster file than at the last start.",
        autocompletion=complete_cluster,
    ),
]


def _expanded(text: str | None) -> str | None:
    """Return a path as a recipe's would be taken: `~` is the home directory, a variable is refused."""
    try:
        return None if text is None else expand_path(text)
    except ValueError as error:
        raise UserError(str(error)) from error


StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="DIR",
        envvar="CONCORD_STORE",
        help="Store of what is given by name.",
        callback=_expanded,
    ),
]
WorkOption = Annotated[
    str | None,
    typer.Option(
        "--work-dir",
        metavar="DIR",
        help="Of a store that is a URL: storage.work_dir, if not the last one.",
        callback=_expanded,
    ),
]
SubjectArgument = Annotated[
    str | None,
    typer.Argument(
        help="A recipe (RECIPE or RECIPE:STEP), a run's id (RUN or RUN:STEP), an artifact's name, or a path of one. "
        "Left out: the run that was started last.",
        metavar="[RECIPE:STEP|RUN|ARTIFACT|PATH]",
        autocompletion=complete_subject,
        show_default=False,
    ),
]
RunArgument = Annotated[str, typer.Argument(help="A run's id.", metavar="RUN", autocompletion=complete_run)]
