"""Cleaning that is killed goes on where it was, and gives what an undisturbed one gives."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.executor import Executor
from cluster.host import files
from cluster.inline import InlineExecutor
from configs.data.stages import CleanConfig
from configs.pools import PoolConfig
from data_prep.cleaning import stage, treatment
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


def count_records(monkeypatch: pytest.MonkeyPatch, *, die_at: int | None = None) -> list[str]:
    """Note the id of each record that is normalised from now on; die before number `die_at`, from 0."""
    original, seen = treatment.normalize, list[str]()

    def note(text: str, **kwargs: Any) -> Any:
        if len(seen) == die_at:
            raise Killed
        seen.append(text)
        return original(text, **kwargs)

    monkeypatch.setattr(treatment, "normalize", note)
    return seen


@pytest.mark.parametrize("die_at", [0, 1, 37, 90, 159])
def test_finished_pieces_are_not_made_again(
    tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    calm = run(config, tmp_path / "calm")
    with monkeypatch.context() as patch:
        count_records(patch, die_at=die_at)
        with pytest.raises(Killed):
            run(config, tmp_path / "out")
    seen = count_records(monkeypatch)
    assert run(config, tmp_path / "out") == calm
    in_a_piece = 500 // 20
    assert 160 - die_at <= len(seen) <= 160 - die_at + in_a_piece


def test_a_piece_is_whole_or_not_there(tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between any two of the files that a piece, a partition or a shard has."""
    calm = run(config, tmp_path / "calm")
    original, number = files.os.replace, 0

    def dying(*names: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        original(*names)

    for number in range(0, 60, 7):
        left, out = number, tmp_path / f"{number}"
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", dying)
            with pytest.raises(Killed):
                run(config, out)
        assert run(config, out) == calm


def test_finished_shards_are_not_written_again(
    tmp_path: Path, config: CleanConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(config, tmp_path / "calm")
    original, written = stage.write_shard, list[str]()

    def dying(item: Any) -> Any:
        if len(written) == 2:
            raise Killed
        written.append(item.shard)
        return original(item)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_shard", dying)
        with pytest.raises(Killed):
            run(config, tmp_path / "out")
    before = {path: path.stat().st_ino for path in (tmp_path / "out" / "shards").iterdir()}
    seen = count_records(monkeypatch)
    assert before
    assert run(config, tmp_path / "out") == calm
    assert seen == []
    assert {path: path.stat().st_ino for path in before} == before


@pytest.mark.parametrize(
    "gone", ["", "*", "000001*", "pieces", "*.zst", "*.digests", "*.json", "*.done.json", "dropped*"]
)
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
            original(file) if file.is_dir() else file.unlink()
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
    assert {name.partition("/")[0] for name in names} == {"shards", "held_out", "files.jsonl"}
