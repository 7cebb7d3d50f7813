"""How fast the ranks of a training are, as its checkpoints keep it. Imports nothing heavy."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


class DeviceSpeed(BaseModel):
    """How fast devices of one type are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """The member of the pool; empty where it has none."""

    device: str
    """Its name with the driver; of a CPU the architecture."""

    pass_seconds: tuple[Annotated[float, Field(gt=0, lt=1e9)], ...] = Field(min_length=1)
    """Seconds of a forward and backward pass over 1, 2, ... sequences, as many as its memory holds; never falling."""

    empty_seconds: float = Field(default=0.0, ge=0, lt=1e9)
    """Those of a pass without samples; 0 where that was not measured."""

    key: str = ""
    """A digest of all that the times hang on."""

    @field_validator("pass_seconds")
    @classmethod
    def _never_fall(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(value):
            raise ValueError("the times of passes fall")
        return value


class Speeds(BaseModel):
    """How fast each rank is, by which a step's sequences are shared (training/allocation/balance.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    step: int
    """The optimizer step after which this version was made."""

    why: str
    devices: tuple[DeviceSpeed, ...]
    device_of_rank: tuple[int, ...]
    """By rank, the index of its type in `devices`."""

    slowdown: tuple[float, ...]
    """By rank, how many times as long as its type it takes."""

    hosts: tuple[str, ...] = ()
    """By rank, its machine."""

    pass_communication: float = 0.0
    """Seconds that the collectives of a pass take, where each pass has some."""
