"""Checkpoints on disk, from fragments made by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.base import UserError
from tests.training.ranks import tiny_config
from training import checkpoint
from training.engine import Fragment
from training.load import load_model
from training.model import build_model, model_config

SHAPES = {"embed.weight": (7, 3), "norm.weight": (5,), "scale": ()}
KINDS = ("master", "exp_avg", "exp_avg_sq")
State = dict[str, dict[str, torch.Tensor]]
"""Parameter -> kind -> flat tensor."""


def state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
    return {name: {kind: torch.randn(n, generator=generator) for kind in KINDS} for name, n in sizes.items()}


def shares(whole: State, rank: int, world_size: int) -> Iterator[Fragment]:
    """What a rank owns: a stretch of all parameters end to end, cut where parameters begin and end."""
    total = sum(len(tensors["master"]) for tensors in whole.values())
    low, high = rank * total // world_size, (rank + 1) * total // world_size
    first = 0
    for name, tensors in whole.items():
        size = len(tensors["master"])
        start, stop = max(low - first, 0), min(high - first, size)
        if start < stop:
            yield Fragment(name, start, {kind: tensor[start:stop] for kind, tensor in tensors.items()})
        first += size


def save(root: Path, step: int, whole: State, *, world_size: int = 3) -> Path:
    directory = checkpoint.directory_of(root, step)
    gathering = checkpoint.begin(directory)
    sums = [
        checkpoint.save_fragments(gathering, shares(whole, rank, world_size), rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    (gathering / checkpoint.MODEL_CONFIG).write_text("{}")
    record = checkpoint.CheckpointRecord(
        step=step,
        num_tokens=10 * step,
        world_size=world_size,
        shapes=SHAPES,
        sha256=checkpoint.checksums(gathering, sums),
    )
    checkpoint.finish(gathering, directory, record)
    return directory


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 40])
def test_weights_are_put_together_from_all_ranks(tmp_path: Path, world_size: int) -> None:
    whole = state()
    loaded = checkpoint.load_weights(save(tmp_path, 5, whole, world_size=world_size))
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == SHAPES
    assert all(torch.equal(tensor.flatten(), whole[name]["master"]) for name, tensor in loaded.items())


def test_each_rank_gets_back_what_it_saved(tmp_path: Path) -> None:
    whole, blank = state(), {name: {k: torch.zeros_like(t) for k, t in own.items()} for name, own in state().items()}
    directory = save(tmp_path, 5, whole)
    record = checkpoint.read_record(directory)
    for rank in range(3):
        checkpoint.load_fragments(directory, record, shares(blank, rank, 3))
    assert all(torch.equal(blank[name][kind], whole[name][kind]) for name in SHAPES for kind in KINDS)
    assert (record.step, record.num_tokens, record.world_size) == (5, 50, 3)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_other_ranks_get_their_stretches(tmp_path: Path, world_size: int) -> None:
    whole, blank = state(), {name: {k: torch.zeros_like(t) for k, t in own.items()} for name, own in state().items()}
    directory = save(tmp_path, 5, whole)
    record = checkpoint.read_record(directory)
    for rank in range(world_size):
        checkpoint.load_fragments(directory, record, shares(blank, rank, world_size))
    assert all(torch.equal(blank[name][kind], whole[name][kind]) for name in SHAPES for kind in KINDS)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = save(tmp_path, 5, {name: own for name, own in state().items() if name != "norm.weight"})
    with pytest.raises(UserError, match="lacks part of"):
        checkpoint.load_fragments(directory, checkpoint.read_record(directory), shares(state(), 0, 1))


def test_equal_state_makes_equal_files(tmp_path: Path) -> None:
    one, other = (save(tmp_path / name, 5, state()) for name in "ab")
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none") == (None, [])
    half = checkpoint.begin(checkpoint.directory_of(tmp_path, 9))
    checkpoint.save_fragments(half, shares(state(), 0, 1), rank=0, world_size=1)
    assert checkpoint.newest(tmp_path) == (None, [])
    save(tmp_path, 5, state())
    found, complaints = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found[0].name, complaints) == ("step-00000005", [])


def test_what_a_killed_writer_left_is_not_mixed_in(tmp_path: Path) -> None:
    half = checkpoint.begin(checkpoint.directory_of(tmp_path, 5))
    (half / "rank-00007-of-00009.safetensors").write_bytes(b"old")
    save(tmp_path, 5, state())
    assert names(tmp_path) == ["step-00000005"]
    assert len(names(tmp_path / "step-00000005")) == 5


def test_a_checkpoint_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    (save(tmp_path, 5, state()) / checkpoint.RECORD).unlink()
    directory = save(tmp_path, 5, state(seed=1))
    assert torch.equal(checkpoint.load_weights(directory)["norm.weight"], state(seed=1)["norm.weight"]["master"])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 100, 30):
        save(tmp_path, step, state())
    checkpoint.keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["step-00000030", "step-00000100"]
    checkpoint.keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["step-00000030", "step-00000100"]


def test_a_deletion_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step, state())
    checkpoint.directory_of(tmp_path, 2).rename(tmp_path / ".step-00000002.deleted")
    save(tmp_path, 2, state())
    checkpoint.keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["step-00000004", "step-00000006"]


FILES = ["rank-00001-of-00003.safetensors", "rank-00000-of-00003.safetensors", "config.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 4, state())
    path = save(tmp_path, 6, state(seed=1)) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flipped" else data[:-1])
    if damage == "gone":
        path.unlink()
    with pytest.raises(UserError, match=rf"step-00000006 is damaged: .*{name}") as caught:
        checkpoint.load_weights(path.parent)
    assert "\n" not in str(caught.value)
    found, complaints = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].step) == ("step-00000004", 4)
    assert complaints == [str(caught.value)]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"format": 2}', None])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    directory = save(tmp_path, 4, state())
    if content is None:
        (directory / checkpoint.RECORD).unlink()
    else:
        (directory / checkpoint.RECORD).write_bytes(content)
    with pytest.raises(UserError, match="step-00000004 is damaged: ") as caught:
        checkpoint.read_record(directory)
    assert "\n" not in str(caught.value)
    assert checkpoint.newest(tmp_path) == (None, [str(caught.value)])


@pytest.mark.parametrize("flaw", ["missing", "nan"])
def test_weights_that_are_not_all_there_are_named(tmp_path: Path, flaw: str) -> None:
    whole = state()
    if flaw == "missing":
        whole["norm.weight"] = {kind: tensor[:-1] for kind, tensor in whole["norm.weight"].items()}
    else:
        whole["norm.weight"]["master"][2] = torch.nan
    with pytest.raises(UserError, match="lacks parts of norm"):
        checkpoint.load_weights(save(tmp_path, 4, whole))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_put_together_from_its_checkpoint(tmp_path: Path, tied: bool) -> None:
    config = tiny_config()
    config = config.model_copy(update={"model": config.model.model_copy(update={"tie_word_embeddings": tied})})
    settings = model_config(config, vocab_size=320, eos_id=1, pad_id=2)
    model = build_model(settings, seed=3).eval()
    named = list(model.named_parameters())
    directory = checkpoint.directory_of(tmp_path, 1)
    gathering = checkpoint.begin(directory)
    parts = (Fragment(name, 0, {kind: p.data.flatten().clone() for kind in KINDS}) for name, p in named)
    sums = [checkpoint.save_fragments(gathering, parts, rank=0, world_size=1)]
    (gathering / checkpoint.MODEL_CONFIG).write_text(settings.to_json_string())
    record = checkpoint.CheckpointRecord(
        step=1,
        num_tokens=1,
        world_size=1,
        shapes={name: tuple(p.shape) for name, p in named},
        sha256=checkpoint.checksums(gathering, sums),
    )
    checkpoint.finish(gathering, directory, record)
    ids = torch.arange(16)[None]
    with torch.inference_mode():
        assert torch.equal(load_model(directory)(input_ids=ids).logits, model(input_ids=ids).logits)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    directory = save(tmp_path, 1, state())
    settings = model_config(tiny_config(), vocab_size=320, eos_id=1, pad_id=2)
    (directory / checkpoint.MODEL_CONFIG).write_text(settings.to_json_string())
    record = checkpoint.CheckpointRecord.model_validate_json((directory / checkpoint.RECORD).read_text())
    sums = [record.sha256[f"rank-0000{rank}-of-00003.safetensors"] for rank in range(3)]
    record = record.model_copy(update={"sha256": checkpoint.checksums(directory, sums)})
    (directory / checkpoint.RECORD).write_text(record.model_dump_json())
    with pytest.raises(UserError, match="does not fit its configuration"):
        load_model(directory)
