"""The types every package shares: Config (in), Manifest (out), Artifact (a manifest with its directory)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name that is safe in a path, a URL and a shell."""


MIB, GIB = 2**20, 2**30

RESUME_ME = 75
"""Exit code of a run that was pre-empted, saved, and goes on when it is started again: sysexits' EX_TEMPFAIL."""


class UserError(Exception):
    """Something the user can mend. The message is one sentence: where, what, what to do. No traceback is shown."""

    exit_code = 1


class ConfigError(UserError):
    """A recipe or a cluster file that cannot work as written. One line a problem, all problems at once."""

    exit_code = 2


class StartUpError(UserError):
    """Work could not begin: the cluster did not answer, or its resources did not become free in time."""

    exit_code = 69  # sysexits' EX_UNAVAILABLE


class InfrastructureError(UserError):
    """Machines, a store or Ray itself have failed: the same work may well succeed when it is started again."""

    exit_code = 71  # sysexits' EX_OSERR


class LeaseLost(InfrastructureError):
    """Another process has taken over what this one was making, so this one may write nothing more to it."""


class OutOfMemory(UserError):
    """A machine or a GPU ran out of memory: the same work would fail again in the same way."""

    exit_code = 73


class Config(BaseModel):
    """What a user may write. Frozen. An unknown key is an error, never ignored; so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    refused: ClassVar[Mapping[str, str]] = {}
    """Keys that a user may look for here, each with why there is none and what to do instead."""


@dataclass(frozen=True)
class AddedLater:
    """Marks a key that a stage's config got after artifacts had been made without it, by `Annotated[T, AddedLater()]`.

    While the key has its default it is left out of the fingerprint, so that those artifacts are still found. Use it
    only where that default makes, bit for bit, what was made before; otherwise the stage's version rises.
    """


@dataclass(frozen=True)
class ByContent:
    """Marks a path of a stage's config, by `Annotated[str, ByContent()]`, whose content the stage observes.

    What is there is hashed, not how it is spelled: the same files elsewhere make the same artifact.
    """


class Manifest(BaseModel):
    """What a stage tells the next stage about the files that it wrote.

    Paths inside a manifest are relative to the artifact's directory, so an artifact may move.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def summary(self) -> str:
        """Return one line for a person: what was made, and how much of it."""
        raise NotImplementedError

    def main_file(self) -> str:
        """Return the file or directory that a person opens, relative to the artifact; the artifact's own if empty."""
        return ""


M = TypeVar("M", bound=Manifest, covariant=True)


@dataclass(frozen=True)
class Unfinished(Generic[M]):
    """An artifact that is being made while a stage already takes it: what stands in its directory may be read."""

    dir: Path
    find: Callable[[], M | None]
    """Returns the manifest once the artifact is finished, and None before. Raises Abandoned if it will not be."""


class Abandoned(Exception):
    """What a stage takes unfinished is not being made any more."""


@dataclass(frozen=True)
class Artifact(Generic[M]):
    """A finished output of a stage: the directory of its files, and the manifest that describes them."""

    dir: Path
    manifest: M
