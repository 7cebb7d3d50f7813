"""Which code made something: a mark for changes of the code, and none for data that lies beside it."""

import subprocess
from pathlib import Path

import pytest

from pipeline.store import provenance


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=me", "-c", "user.email=me@here"]
    done = subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_only_changes_of_the_packages_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv(provenance.CODE, raising=False)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "loop.py").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "my-recipe.yaml").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text.jsonl").touch()
    assert provenance.code_version() == commit
    (tmp_path / "training" / "new.py").touch()
    assert provenance.code_version() == f"{commit}+changes"
