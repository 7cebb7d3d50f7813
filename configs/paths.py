"""Paths as people write them in recipes and cluster files: `~` is the home directory, a variable is refused."""

import os
import re
from typing import Annotated

from pydantic import AfterValidator

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def expand_path(text: str) -> str:
    """Return a path, or a URL, with `~` or `~user` at its beginning replaced by the home directory.

    Raises ValueError on a variable of a shell, which would be another directory for everybody who runs the recipe, and
    on a home directory that is not known.
    """
    if (found := _VARIABLE.search(text)) is not None:
        raise ValueError(
            f"{text!r} holds the variable {found[0]}, which is not replaced here; write the path out, or give it on "
            "the command line with --set, where the shell replaces it"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.partition("/")[0]
        raise ValueError(f"{text!r}: no home directory of {name} is known here; write the path out")
    return expanded


PathText = Annotated[str, AfterValidator(expand_path)]
"""A path, relative to the directory the command is run in, or absolute."""
