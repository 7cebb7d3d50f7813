"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe, a YAML file.", metavar="RECIPE")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as steps.model.config.seed=1. Repeatable."),
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", metavar="NAME", help="Shipped cluster file by name, or the path of one.")
]
