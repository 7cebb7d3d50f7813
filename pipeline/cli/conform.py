"""`concord conform`: what it prints of the checks of an accelerator, and of two records side by side."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from rich.console import Console
from rich.text import Text

from configs.base import UserError
from pipeline.store.provenance import code_version
from training.conform.record import Check, ConformRecord, compare, read_record, write_record
from training.conform.run_checks import run_checks

_STYLES = {"OK": "green", "FAIL": "bold red", "": ""}
_NAME, _NUMBER = 30, 10


def conform(out: Console, *, record: Path | None, against: Path | None, show: Path | None, quick: bool) -> bool:
    """Run all checks, write their record and print them; or with `show` print those of a record.

    Without `record` it goes to conform.json. `against` is a record to compare with. Returns whether no check failed.
    Raises UserError on a file that is no record, and on a place that cannot be written.
    """
    other = read_record(against) if against is not None else None
    if show is not None and (quick or record is not None):
        raise UserError("--show prints a record and runs nothing; leave --quick and --out out")
    if show is not None:
        found = read_record(show)
        for check in found.checks:
            print_check(check, out)
    else:
        path = record or Path("conform.json")
        _check_can_be_written(path)
        with ends_on_sigterm():
            found = run_checks(code=code_version(), quick=quick, show=lambda check: print_check(check, out))
        out.print(f"record: {_write(path, found)}", markup=False)
    _print_machine(found, out)
    if other is not None:
        print_comparison(found, other, out)
    return not found.failed


def _check_can_be_written(path: Path) -> None:
    """Raise UserError unless a file can be made at `path`, before ten minutes are spent on what goes there."""
    if path.exists() and not path.is_file():
        raise UserError(f"--out: {path} is no file; name one")
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:100]}."):
            pass
    except OSError as error:
        raise UserError(
            f"--out: no file can be made in the directory {path.parent} ({error.strerror}); name another"
        ) from None


def _write(path: Path, found: ConformRecord) -> Path:
    """Write the record, to the temporary directory if `path` cannot be written any more; return where it is."""
    try:
        write_record(path, found)
    except OSError as error:
        with NamedTemporaryFile(mode="w", prefix="conform-", suffix=".json", delete=False, encoding="utf-8") as file:
            file.write(found.model_dump_json(indent=2) + "\n")
        raise UserError(
            f"--out: {path} cannot be written ({error.strerror}); the record is in {file.name}: move it away"
        ) from None
    return path


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end the block as an exception, so that child processes and temporary files go with it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_check(check: Check, out: Console) -> None:
    """Print a line of a check: whether it passed, its name, number, limit and what is to be said of it."""
    level = {True: "OK", False: "FAIL", None: ""}[check.passed]
    line = Text(f"{level:<5}", style=_STYLES[level])
    line.append(
        f"{check.name:<{_NAME}} {_number(check.value):>{_NUMBER}} {check.unit if check.value is not None else '':<9}",
        style="",
    )
    line.append(f"{'' if check.limit is None else f'<= {check.limit:.3g}':<11}{check.detail}", style="dim")
    out.print(line)


def print_comparison(one: ConformRecord, other: ConformRecord, out: Console) -> None:
    """Print each check of two records with the ratio of the first to the second."""
    out.print(f"\nagainst {_name(other)}, of {other.started}", markup=False)
    if one.scale != other.scale:
        out.print(f"the scales differ ({one.scale} and {other.scale}): speeds do not compare", markup=False)
    for pair in compare(one, other):
        values = [_value(check) for check in (pair.one, pair.other)]
        ratio = "" if pair.ratio is None else f"{pair.ratio:.3f}"
        said = next((check.unit for check in (pair.one, pair.other) if check is not None and check.unit), "")
        out.print(f"{pair.name:<{_NAME}} {values[0]:>{_NUMBER}} {values[1]:>{_NUMBER}} {ratio:>8} {said}", markup=False)


def _print_machine(record: ConformRecord, out: Console) -> None:
    packages = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    counts = [sum(check.passed is passed for check in record.checks) for passed in (True, False, None)]
    out.print(f"{_name(record)}; {record.host.cpu}, {record.host.num_cores} cores; {packages}", markup=False)
    said = ", ".join(f"{count} {word}" for count, word in zip(counts, ("OK", "FAIL", "without a limit"), strict=True))
    out.print(f"{said}, in {record.seconds:.0f} s at scale {record.scale}", markup=False)


def _name(record: ConformRecord) -> str:
    device = record.device
    driver = f", driver {device.driver}" if device.driver else ""
    return f"{device.count} x {device.name} ({device.type}{driver})"


def _value(check: Check | None) -> str:
    if check is None:
        return "missing"
    return _number(check.value) or {True: "OK", False: "FAIL", None: "-"}[check.passed]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.2e}"
