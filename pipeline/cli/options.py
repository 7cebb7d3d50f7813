"""The arguments and options of `concord` that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", envvar="CONCORD_STORE", help="Store of what is given by name.")
]
WorkOption = Annotated[
    str | None,
    typer.Option("--work-dir", metavar="DIR", help="Of a store that is a URL: storage.work_dir, if not the last one."),
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
