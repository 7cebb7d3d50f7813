"""Cleaning that is killed goes on where it was, and gives what an undisturbed one gives."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.executor import Executor
from cluster.inline import InlineExecutor
from configs.data import CleanConfig
from configs.pools import PoolConfig
from data_prep.cleaning import stage
from data_prep.cleaning.parts import write_part
from data_prep.sources.table import READERS
from tests.data_prep.corpora import INLINE, clean_config, sentences, source, write_lines


class Killed(Exception):
    """Stands for the end of the process by SIGKILL."""


class Backwards(InlineExecutor):
    """Runs the last item first."""

    def map(
        self, fn: Callable[[Any], Any], items: Sequence[Any], *, label: str, on_device: bool = False
    ) -> Iterator[Any]:
        results = list(super().map(fn, items[::-1], label=label, on_device=on_device))
        return iter(results[::-1])


@pytest.fixture
def config(tmp_path: Path) -> CleanConfig:
    paths = []
    for number in range(4):
        rows = [(lang, text) for lang in ("en", "sw") for text in sentences(20, of=f"{lang} {number // 2}")]
        paths.append(write_lines(tmp_path / f"{number}.jsonl", rows))
    return clean_config(source("web", *paths[:3]), source("books", paths[3]), shard_bytes=500)


def run(config: CleanConfig, out: Path, executor: Executor = INLINE) -> dict[str, bytes]:
    """Run the stage; return every file of the artifact, hidden ones too, and the manifest."""
    manifest = stage.clean(config, out=out, executor=executor)
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return files | {"manifest": manifest.model_dump_json().encode()}


def count_reads(monkeypatch: pytest.MonkeyPatch, *, die_after: int | None = None) -> list[str]:
    """Record the parts that are read from now on; die in the middle of reading part number `die_after`, from 0."""
    original, parts = READERS["json_lines"].read, list[str]()

    def read(config: Any, part: str) -> Iterator[Any]:
        parts.append(Path(part).name)
        for number, record in enumerate(original(config, part)):
            if die_after is not None and len(parts) > die_after and number == 3:
                raise Killed
            yield record

    monkeypatch.setitem(READERS, "json_lines", replace(READERS["json_lines"], read=read))
    return parts


@pytest.mark.parametrize("parts_before", [0, 1, 3])
def test_finished_parts_are_not_read_again(
    tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch, parts_before: int
) -> None:
    calm = run(config, tmp_path / "calm")
    with monkeypatch.context() as patch:
        count_reads(patch, die_after=parts_before)
        with pytest.raises(Killed):
            run(config, tmp_path / "out")
    parts = count_reads(monkeypatch)
    assert run(config, tmp_path / "out") == calm
    assert parts == [f"{number}.jsonl" for number in range(parts_before, 4)]


def test_finished_shards_are_not_written_again(
    tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(config, tmp_path / "calm")
    original = write_part
    written: list[int] = []

    def dying(part: Any) -> Any:
        if len(written) == 2:
            raise Killed
        written.append(part.index)
        return original(part)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_part", dying)
        with pytest.raises(Killed):
            run(config, tmp_path / "out")
    before = {path: path.stat().st_ino for path in (tmp_path / "out" / "shards").iterdir()}
    parts = count_reads(monkeypatch)
    assert before
    assert run(config, tmp_path / "out") == calm
    assert parts == []
    assert {path: path.stat().st_ino for path in before} == before


@pytest.mark.parametrize("gone", ["", "*", "000001*", "*.npz", "*.jsonl.zst", "*.written.json"])
def test_a_kill_while_tidying_up_does_no_harm(
    tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Any of the work files may be gone when the process ends."""
    calm = run(config, tmp_path / "calm")
    original = shutil.rmtree

    def dying(path: Path, *args: Any, **kwargs: Any) -> None:
        if not list(path.glob("*")):
            return original(path, *args, **kwargs)
        for file in path.glob(gone) if gone else []:
            file.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dying)
        with pytest.raises(Killed):
            run(config, tmp_path / "out")
    assert run(config, tmp_path / "out") == calm


def test_the_order_of_execution_does_not_matter(tmp_path: Path, config: CleanConfig) -> None:
    assert run(config, tmp_path / "a") == run(config, tmp_path / "b", Backwards(PoolConfig()))


def test_nothing_but_shards_and_held_out_documents_is_left(tmp_path: Path, config: CleanConfig) -> None:
    names = set(run(config, tmp_path / "out")) - {"manifest"}
    assert {name.partition("/")[0] for name in names} == {"shards", "held_out"}
