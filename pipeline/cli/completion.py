"""What a shell offers after `concord ...<Tab>`: recipes, cluster files, runs and artifacts. It must be quick."""

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from configs.base import UserError


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes, and the YAML files and directories at a path that begins so."""
    return _matching(_shipped("recipes"), incomplete) + _yaml_files(incomplete)


def complete_cluster(incomplete: str) -> list[str]:
    """Return the shipped cluster files, and the YAML files and directories at a path that begins so."""
    return _matching(_shipped("clusters"), incomplete) + _yaml_files(incomplete)


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the store."""
    return _matching(_runs(context), incomplete)


def complete_subject(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs and artifacts of the store, and recipes."""
    return _matching([*_runs(context), *_artifacts(context)], incomplete) + complete_recipe(incomplete)


def _matching(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _shipped(kind: str) -> list[str]:
    from configs.load import SHIPPED

    return sorted(path.stem for path in (SHIPPED / kind).glob("*.yaml"))


def _yaml_files(incomplete: str) -> list[str]:
    folder, _, start = incomplete.rpartition("/")
    directory = Path(folder or ("/" if incomplete.startswith("/") else "."))
    if not directory.is_dir():
        return []
    prefix = f"{folder}/" if "/" in incomplete else ""
    found = sorted(path for path in directory.iterdir() if path.name.startswith(start) and path.name[0] != ".")
    return [
        f"{prefix}{path.name}" + ("/" if path.is_dir() else "")
        for path in found
        if path.is_dir() or path.suffix in (".yaml", ".yml")
    ]


def _store(context: typer.Context) -> str:
    return str(context.params.get("store") or os.environ.get("CONCORD_STORE") or "store")


def _runs(context: typer.Context) -> list[str]:
    from pipeline.runs.directory import run_ids

    try:
        return run_ids(_store(context))
    except (UserError, OSError):  # no completion is better than a message in the middle of a command line
        return []


def _artifacts(context: typer.Context) -> list[str]:
    store, signs = Path(_store(context)), ("record.json", ".attempts")
    return sorted({path.parent.name for sign in signs for path in store.glob(f"*/{sign}")}) if store.is_dir() else []
