"""Fake programs that print what real ones would."""

from pathlib import Path

import pytest


def only_programs(monkeypatch: pytest.MonkeyPatch, directory: Path, programs: dict[str, str]) -> None:
    """Make PATH a directory with these programs, given as lines of /bin/sh, and nothing else."""
    directory.mkdir(exist_ok=True)
    for name, script in programs.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
