"""What the checks of an accelerator gave: one number each; and the record of all of them, to be shown and compared."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.host.files import write_text
from cluster.storage.errors import error_class
from configs.base import UserError
from configs.text import one_line


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Frozen):
    """One thing that was measured."""

    name: str
    value: float | None = None
    """None where it could not be measured, or where there is nothing to measure."""

    unit: str = ""
    limit: float | None = None
    """The largest value that passes; None where any does."""

    passed: bool | None = None
    """None where the number only informs, or the machine lacks what is checked."""

    detail: str = ""


class DeviceRecord(_Frozen):
    """The accelerators of a machine."""

    type: str
    """PyTorch's name of the type: cuda, xpu, hpu or cpu."""

    name: str
    count: int
    memory_bytes: int
    """Memory of one accelerator; of the host where there is none."""

    driver: str
    """Version of the driver, or of what PyTorch was built for; empty on a CPU."""

    capability: str
    """Compute capability, or the architecture that the driver names; empty where there is none."""


class HostRecord(_Frozen):
    """The machine around it."""

    cpu: str
    num_cores: int
    """Cores that the process may use."""

    memory_bytes: int


class ConformRecord(_Frozen):
    """The record of one `concord conform`."""

    format: Literal[1] = 1
    device: DeviceRecord
    host: HostRecord
    versions: dict[str, str]
    """Versions of Python and of the packages that compute."""

    code: str
    """Concord's commit, or its version without a checkout."""

    started: str
    """UTC, in ISO 8601."""

    seconds: float
    scale: str
    """Name of the sizes (training/conform/scale.py). Only records of one scale have comparable speeds."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.passed is False]


def judged(name: str, value: float, *, limit: float, unit: str = "", detail: str = "") -> Check:
    """Return a check that passes up to `limit`; a value that is no number fails."""
    finite = math.isfinite(value)
    passed = finite and value <= limit
    return Check(name=name, value=value if finite else None, unit=unit, limit=limit, passed=passed, detail=detail)


def failure(name: str, why: str) -> Check:
    """Return a check that failed without a number."""
    return Check(name=name, passed=False, detail=one_line(why)[:300])


def attempt(name: str, make: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield the checks that `make` gives; if it raises, a failure of this name after those before."""
    try:
        yield from make()
    except Exception as error:
        yield failure(name, f"{type(error).__name__}: {error}")


def write_record(path: Path, record: ConformRecord) -> None:
    """Write a record whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def read_record(path: Path) -> ConformRecord:
    """Read a record. Raises UserError if there is none, or it is none."""
    try:
        return ConformRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise error_class(error)(
            f"{path} cannot be read ({error.strerror}); give a file that `concord conform` wrote"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is no record of `concord conform` ({where + ': ' if where else ''}{first['msg']}); give one"
        ) from None


class ComparedCheck(_Frozen):
    """A check in two records; None where a record lacks it."""

    name: str
    one: Check | None
    other: Check | None

    @property
    def ratio(self) -> float | None:
        """The first value over the second, where both have one."""
        if self.one is None or self.other is None or self.one.value is None or not self.other.value:
            return None
        return self.one.value / self.other.value


def compare(one: ConformRecord, other: ConformRecord) -> list[ComparedCheck]:
    """Pair the checks of two records by name, in the order of the first, then what only the second has."""
    first, second = ({check.name: check for check in record.checks} for record in (one, other))
    names = [*first, *(name for name in second if name not in first)]
    return [ComparedCheck(name=name, one=first.get(name), other=second.get(name)) for name in names]
