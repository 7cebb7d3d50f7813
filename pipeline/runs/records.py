"""What a store keeps of a run that was submitted: machine-written, and the truth about it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from configs.base import Name
from pipeline.runs.retry import Outcome


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunRecord(_Record):
    """What was submitted. Written once, and never changed."""

    format: Literal[1] = 1
    id: Name
    key: str
    """At random: by it launchers tell this run from one of the same id in another store."""

    recipe: JsonValue
    """The whole recipe, with its overrides applied and every default filled in."""

    recipe_path: str
    """Where it was read from, on the machine that submitted."""

    overrides: tuple[str, ...]
    directory: str
    """Working directory: what the recipe's relative paths are relative to."""

    submitted: datetime
    user: str
    host: str


class StartRecord(_Record):
    """One start of the driver: by `submit`, or by `resume`."""

    format: Literal[1] = 1
    number: int
    cluster_name: str
    cluster: JsonValue
    """The cluster file, with every default filled in. Placement may change from start to start."""

    artifacts: dict[str, str]
    """The artifact that each step makes, by step name: what the sources held is part of these names."""

    code: str
    packages: dict[str, str]
    avoid: tuple[str, ...]
    """Hosts that failed the check before the start."""

    take_over: bool
    """Whether a driver that still holds the run is passed over."""

    time: datetime
    handle: str | None = None
    """The launcher's, once it has one."""


class AttemptRecord(_Record):
    """One attempt: a process that runs the recipe from where the one before ended."""

    format: Literal[1] = 1
    number: int
    start: int
    """The start whose driver made it."""

    host: str
    """Of the driver."""

    pid: int
    began: datetime
    ended: datetime | None = None
    outcome: Outcome | None = None
    """None while it goes on, or when its driver died with it."""

    reason: str = ""
    """What it said at its end."""

    exit_code: int | None = None
    progressed: bool = False
    """Whether it finished a step, or a checkpoint, that was not there before."""

    code: str
    packages: dict[str, str]


class RequestRecord(_Record):
    """Something a user wants of a run that goes on."""

    format: Literal[1] = 1
    what: Literal["stop", "checkpoint"]
    time: datetime
    user: str
    host: str
