"""Paths as people write them."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.base import Config, ConfigError
from configs.cluster import StorageConfig
from configs.data.sources import HuggingFaceSource, JsonLinesSource
from configs.data.stages import HeldOutConfig, ImportTokenizerConfig
from configs.evaluation import ReportConfig
from configs.load import load, shipped
from configs.pools import PoolConfig
from configs.run import RunConfig
from configs.training.init import InitConfig

STEPS: dict[str, Any] = {"tokens": {"stage": "tokenize"}}
MAKERS: dict[str, Callable[[str], Config]] = {
    "store": lambda path: RunConfig(name="a", store=path, steps=STEPS),
    "paths": lambda path: JsonLinesSource(name="a", kind="json_lines", paths=(path,)),
    "path": lambda path: HuggingFaceSource(name="a", kind="hugging_face", path=path),
    "against": lambda path: HeldOutConfig(against=(path,)),
    "init path": lambda path: InitConfig(path=path),
    "tokenizer": lambda path: InitConfig(tokenizer=path),
    "import": lambda path: ImportTokenizerConfig(path=path),
    "templates": lambda path: ReportConfig(templates=path),
    "work_dir": lambda path: StorageConfig(work_dir=path),
    "conform": lambda path: PoolConfig(conform=path),
}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize("key", MAKERS)
def test_every_path_may_begin_in_the_home_directory_and_holds_no_variable(key: str) -> None:
    made = MAKERS[key]("~/data/a")
    assert "'/home/me/data/a'" in repr(made) and "~" not in repr(made)
    assert type(made).model_validate(made.model_dump()) == made
    for text, variable in (("$SCRATCH/a", "$SCRATCH"), ("/a/${USER}/b", "${USER}")):
        with pytest.raises(ValueError, match=r"holds the variable .*, which is not replaced here") as caught:
            MAKERS[key](text)
        assert f"holds the variable {variable}," in str(caught.value)
    with pytest.raises(ValueError, match="no home directory of ~nobody-at-all is known here"):
        MAKERS[key]("~nobody-at-all/a")


@pytest.mark.parametrize("path", ["a/b", "/a/~b", "s3://bucket/~/a", "a$", "data/**/[ab]?.jsonl"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert RunConfig.model_validate({"name": "a", "store": path, "steps": STEPS}).store == path


def test_a_refused_path_names_its_line_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\nstore: $SCRATCH/store\nsteps:\n  tokens: {stage: tokenize}\n")
    with pytest.raises(ConfigError, match=r"r\.yaml:2: store: '\$SCRATCH/store' holds the variable \$SCRATCH"):
        load(recipe, RunConfig)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_a_recipe_may_be_a_pipe(tmp_path: Path) -> None:
    """As in `concord plan <(make-recipe)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=["name: a\nsteps:\n  tokens: {stage: tokenize}\n"])
    writer.start()
    try:
        assert load(shipped("recipes", str(pipe)), RunConfig).config.name == "a"
    finally:
        writer.join()
