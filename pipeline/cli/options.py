"""The arguments and options of `concord` that several commands share."""

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
StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", envvar="CONCORD_STORE", help="Store that holds the run.")
]
WorkOption = Annotated[
    str | None,
    typer.Option("--work-dir", metavar="DIR", help="Of a store that is a URL: storage.work_dir, if not the last one."),
]
