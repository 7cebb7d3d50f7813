"""Paths as people write them in recipes and cluster files: `~` is the home directory, a variable is refused."""

import os
import re
from typing import Annotated
from urllib.parse import urlsplit

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


def no_password(text: str) -> str:
    """Return a path or a URL. Raises ValueError if a URL holds a user or a password, which would go into records."""
    if "://" in text and "@" in urlsplit(text).netloc:
        raise ValueError("a URL must hold no user and password; give them by the environment of its protocol")
    return text


PathText = Annotated[str, AfterValidator(expand_path)]
"""A path, relative to the directory the command is run in, or absolute."""

FilePattern = Annotated[PathText, AfterValidator(no_password)]
"""A file, a glob pattern, or a URL of either, of any protocol that fsspec knows."""
