"""Concord's own code, and what of it is sent to a cluster: the packages that run, and nothing else beside them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from configs.base import MIB, ConfigError

ROOT = Path(__file__).parents[2]
"""The directory that holds Concord's packages."""

PACKAGES = ("configs", "cluster", "data_prep", "training", "eval", "pipeline")
BESIDE = ("constraints.txt", "pyproject.toml")
"""Files beside the packages that are sent where they exist, so that one can see what ran."""

NUM_NAMED = 3


def stage_code(code: Path, to: Path, *, max_mib: int) -> None:
    """Copy the packages in `code`, with all files in them but caches and hidden ones, into the directory `to`.

    Raises ConfigError, which names the largest files, if they are more than `max_mib`.
    """
    files = list(_files(code))
    sizes = {file: file.stat().st_size for file in files}
    if (total := sum(sizes.values())) > max_mib * MIB:
        largest = sorted(files, key=lambda file: -sizes[file])[:NUM_NAMED]
        named = ", ".join(f"{file.relative_to(code)} ({sizes[file] / MIB:.1f} MiB)" for file in largest)
        raise ConfigError(
            f"the code in {code} is {total / MIB:.1f} MiB, more than `max_code_mib`, {max_mib}: {named}; move data out "
            "of the packages, or raise max_code_mib in the cluster file"
        )
    for file in files:
        target = to / file.relative_to(code)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _files(code: Path) -> Iterator[Path]:
    for package in PACKAGES:
        if not (code / package / "__init__.py").exists():
            raise ConfigError(f"{code} has no package '{package}', so no run can start from it; install Concord whole")
        for path in sorted((code / package).rglob("*")):
            parts = path.relative_to(code).parts
            if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in parts):
                yield path
    yield from (code / name for name in BESIDE if (code / name).exists())
