"""The types every package shares: Config (in), Manifest (out), Artifact (a manifest with its directory)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name that is safe in a path, a URL and a shell."""


class UserError(Exception):
    """Something the user can mend. The message is one sentence: where, what, what to do. No traceback is shown."""

    exit_code = 1


class ConfigError(UserError):
    """A recipe or a cluster file that cannot work as written. One line a problem, all problems at once."""

    exit_code = 2


class StartUpError(UserError):
    """What is needed to begin did not come: the cluster did not answer, or its resources did not become free."""

    exit_code = 69  # sysexits' EX_UNAVAILABLE


class InfrastructureError(UserError):
    """Machines, or Ray itself, have failed: the same work may well succeed when it is begun again."""

    exit_code = 71  # sysexits' EX_OSERR


class OutOfMemory(UserError):
    """A machine or a GPU ran out of memory: beginning again would end the same way."""

    exit_code = 73


class Config(BaseModel):
    """What a user may write. Frozen. An unknown key is an error, never ignored; so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Manifest(BaseModel):
    """What a stage says of the files it wrote, for the next stage.

    Paths inside a manifest are relative to the artifact's directory, so an artifact may move.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def summary(self) -> str:
        """One line for a person: how much of what was made."""
        raise NotImplementedError


M = TypeVar("M", bound=Manifest, covariant=True)


@dataclass(frozen=True)
class Artifact(Generic[M]):
    """A finished stage output: where its files are and what its maker said of them."""

    dir: Path
    manifest: M
