"""Checkpoints on disk, from fragments made by hand, written by savers of several ranks in one process."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.executor import Rank
from cluster.host.files import describe_file
from configs.base import InfrastructureError, UserError
from configs.pools import RetentionConfig
from tests.training.ranks import run_ranks, tiny_config
from training.checkpoint import rank_file
from training.checkpoint.async_save import Saver
from training.checkpoint.directory import (
    apply_retention,
    delete_unfinished,
    load_weights,
    read_index,
    read_record,
)
from training.checkpoint.fragment_index import load_fragments
from training.checkpoint.load_model import load_model
from training.checkpoint.rank_file import RankFile
from training.checkpoint.retention import hold, steps_to_keep
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.records import (
    CHECKPOINT_FILE,
    CHECKPOINTS,
    CheckpointRecord,
    OrderRecord,
    Position,
    directory_of,
    list_checkpoints,
    rank_file_digests,
)
from training.zero.fragments import Fragment

SHAPES = {"embed.weight": (7, 3), "norm.weight": (5,), "scale": ()}
KINDS = ("master", "exp_avg", "exp_avg_sq")
State = dict[str, dict[str, torch.Tensor]]
"""Parameter -> kind -> flat tensor."""

EVERYTHING = RetentionConfig(newest=99)


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


def record(step: int, *, world_size: int, shapes: Any = None, loss: float = 1.0, **more: Any) -> CheckpointRecord:
    order = OrderRecord(seed=0, sequence_length=8, streams=(), phases=(), tokens="tokenize-0")
    return CheckpointRecord(
        step=step,
        num_updates=step,
        num_tokens=10 * step,
        tokens_read={},
        position=Position(),
        order=order,
        global_batch_size=1,
        num_rollbacks=0,
        loss=loss,
        world_size=world_size,
        zero_stage=1,
        shapes=shapes or SHAPES,
        files={},
        **more,
    )


def retain(root: Path, rule: RetentionConfig) -> None:
    """Delete old checkpoints of a training that is sound and asks for each of them."""
    apply_retention(root, rule, is_own=lambda step: True, sound_step=10**9)


def savers(
    root: Path, world_size: int, *, said: list[str] | None = None, start_id: str = "a", **how: Any
) -> list[Saver]:
    told = [] if said is None else said
    settings = {"before": lambda: None, "after": lambda: retain(root, EVERYTHING), "model_config": "{}"}
    return [
        Saver(
            root,
            rank=rank,
            world_size=world_size,
            start_id=start_id,
            notify=told.append,
            device=torch.device("cpu"),
            **settings | how,
        )
        for rank in range(world_size)
    ]


def settle(ranks: list[Saver]) -> None:
    """What the training loop does when it waits for a save."""
    assert all(saver.wait_for_files(10) for saver in ranks)
    num_failed = sum(saver.failed for saver in ranks)
    for saver in ranks:
        saver.advance(num_failed)
    for saver in ranks:
        assert saver.wait(10)
        saver.advance(int(saver.failed))


def save(root: Path, step: int, whole: State, *, world_size: int = 3, loss: float = 1.0, **how: Any) -> Path:
    ranks = savers(root, world_size, **how)
    shapes = {name: SHAPES.get(name, tuple(own["master"].shape)) for name, own in whole.items()}
    shapes |= SHAPES if set(whole) < set(SHAPES) else {}
    for rank, saver in enumerate(ranks):
        saver.begin(record(step, world_size=world_size, shapes=shapes, loss=loss), shares(whole, rank, world_size))
    settle(ranks)
    return directory_of(root, step)


def newest(root: Path) -> Path | None:
    """The newest checkpoint whose record can be read."""
    for directory in list_checkpoints(root):
        with suppress(UserError):
            read_record(directory)
            return directory
    return None


def load_all(directory: Path, found: CheckpointRecord, fragments: Iterator[Fragment]) -> None:
    load_fragments(directory, read_index(directory, found), fragments, world_size=found.world_size)


def verify(directory: Path) -> CheckpointRecord:
    """The record, once everything in the checkpoint has been loaded, which checks it."""
    found = read_record(directory)
    load_all(directory, found, shares(state(), 0, 1))
    return found


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != ".leases")


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 40])
def test_weights_are_put_together_from_all_ranks(tmp_path: Path, world_size: int) -> None:
    whole = state()
    loaded = load_weights(save(tmp_path, 5, whole, world_size=world_size))
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == SHAPES
    assert all(torch.equal(tensor.flatten(), whole[name]["master"]) for name, tensor in loaded.items())


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_other_ranks_get_their_stretches(tmp_path: Path, world_size: int) -> None:
    whole, blank = state(), {name: {k: torch.zeros_like(t) for k, t in own.items()} for name, own in state().items()}
    directory = save(tmp_path, 5, whole)
    found = read_record(directory)
    for rank in range(world_size):
        load_all(directory, found, shares(blank, rank, world_size))
    assert all(torch.equal(blank[name][kind], whole[name][kind]) for name in SHAPES for kind in KINDS)
    assert (found.step, found.num_tokens, found.world_size) == (5, 50, 3)


def test_stretches_across_blocks_are_read_and_no_block_without_need(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(rank_file, "BLOCK_BYTES", 64)
    whole = {"long": {"master": torch.randn(100), "exp_avg": torch.randn(100)}}
    directory = save(tmp_path, 1, whole, world_size=1)
    read: list[int] = []
    honest = rank_file.RankFile._load
    monkeypatch.setattr(rank_file.RankFile, "_load", lambda self, n, b: (read.append(n), honest(self, n, b)))
    into = torch.zeros(30)
    wanted = [Fragment("long", 40, {"master": into})]
    load_all(directory, read_record(directory), wanted)
    assert torch.equal(into, whole["long"]["master"][40:70])
    # exp_avg comes first: bytes 0 to 399; elements 40 to 69 of master are bytes 560 to 679
    assert read == [8, 9, 10]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_a_rank_opens_the_files_that_hold_what_it_needs_and_no_others(
    tmp_path: Path, monkeypatch: Any, world_size: int
) -> None:
    directory = save(tmp_path, 3, state(), world_size=3)
    found, opened = read_record(directory), list[str]()
    original = RankFile.__init__
    index = read_index(directory, found)

    def watched(self: RankFile, prefix: Path) -> None:
        opened.append(prefix.name)
        original(self, prefix)

    monkeypatch.setattr(RankFile, "__init__", watched)
    for rank in range(world_size):
        opened.clear()
        load_fragments(directory, index, shares(state(), rank, world_size), world_size=3)
        first, last = 3 * rank // world_size, -(-3 * (rank + 1) // world_size)
        expected = [rank_file.file_stem(number, 3) for number in range(first, last)]
        assert set(opened) <= set(expected) if world_size == 2 else opened == expected


def test_a_checkpoint_without_an_index_is_read_by_the_headers_of_its_files(tmp_path: Path) -> None:
    directory = save(tmp_path, 3, state())
    found, index = read_record(directory), read_index(directory, read_record(directory))
    (directory / "index.json").unlink()
    older = found.model_copy(
        update={"files": {name: found.files[name] for name in found.files if name != "index.json"}}
    )
    (directory / CHECKPOINT_FILE).write_text(older.sealed().model_dump_json())
    assert read_index(directory, read_record(directory)) == index
    blank = {name: {kind: torch.zeros_like(t) for kind, t in own.items()} for name, own in state().items()}
    load_all(directory, read_record(directory), shares(blank, 0, 1))
    assert all((blank[name][kind] == tensor).all() for name, own in state().items() for kind, tensor in own.items())


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"parameters": {}}'])
def test_a_damaged_index_costs_nothing(tmp_path: Path, content: bytes | None) -> None:
    directory = save(tmp_path, 3, state())
    index = read_index(directory, read_record(directory))
    (directory / "index.json").unlink()
    if content is not None:
        (directory / "index.json").write_bytes(content)
    assert read_index(directory, read_record(directory)) == index


def test_a_record_from_before_the_last_steps_were_in_it_is_still_valid(tmp_path: Path) -> None:
    directory = save(tmp_path, 3, state())
    content = json.loads((directory / CHECKPOINT_FILE).read_text())
    assert content.pop("recent") is None
    (directory / CHECKPOINT_FILE).write_text(json.dumps(content))
    assert read_record(directory).step == 3


def test_the_safetensors_library_reads_the_files(tmp_path: Path) -> None:
    whole = state()
    directory = save(tmp_path, 5, whole, world_size=1)
    loaded = load_file(directory / "rank-00000-of-00001.safetensors")
    assert loaded.keys() == {f"{kind}/{name}@0" for name in SHAPES for kind in KINDS}
    assert torch.equal(loaded["exp_avg/norm.weight@0"], whole["norm.weight"]["exp_avg"])


def test_narrow_numbers_load_into_wide_tensors(tmp_path: Path) -> None:
    values = torch.randn(9).bfloat16()
    whole = {"a": {"frozen": values}, "b": {"master": torch.randn(3)}}
    ranks = savers(tmp_path, 1)
    ranks[0].begin(
        record(1, world_size=1, shapes={"a": (3, 3), "b": (3,)}),
        iter([Fragment(name, 0, tensors) for name, tensors in whole.items()]),
    )
    settle(ranks)
    loaded = load_weights(directory_of(tmp_path, 1))
    assert torch.equal(loaded["a"], values.float().view(3, 3))
    assert torch.equal(loaded["b"], whole["b"]["master"])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = save(tmp_path, 5, {name: own for name, own in state().items() if name != "norm.weight"})
    with pytest.raises(UserError, match="lacks part of"):
        load_all(directory, read_record(directory), shares(state(), 0, 1))


def test_equal_state_makes_equal_files(tmp_path: Path) -> None:
    one, other = (save(tmp_path / name, 5, state()) for name in "ab")
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    ranks = savers(tmp_path, 2)
    ranks[0].begin(record(9, world_size=2), shares(state(), 0, 2))
    assert ranks[0].wait_for_files(10)
    assert not ranks[0].wait(0.1), "it waits for rank 1"
    assert newest(tmp_path) is None
    assert newest(save(tmp_path, 5, state(), start_id="b").parent) == tmp_path / "step-00000005"
    ranks[0].advance(1)
    delete_unfinished(tmp_path)
    assert names(tmp_path) == ["step-00000005"]


def test_training_may_change_the_weights_while_they_are_written(tmp_path: Path) -> None:
    whole, expected = state(), state()
    ranks = savers(tmp_path, 1)
    ranks[0].begin(record(1, world_size=1), shares(whole, 0, 1))
    for tensors in whole.values():
        tensors["master"].add_(1)
    settle(ranks)
    loaded = load_weights(directory_of(tmp_path, 1))
    assert torch.equal(loaded["norm.weight"], expected["norm.weight"]["master"])


def test_a_buffer_serves_every_save(tmp_path: Path) -> None:
    (saver,) = savers(tmp_path, 1)
    places = set()
    for step in (1, 2, 3):
        saver.begin(record(step, world_size=1), shares(state(step), 0, 1))
        places.add(saver._buffer.data_ptr())
        settle([saver])
    assert len(places) == 1
    assert torch.equal(load_weights(directory_of(tmp_path, 3))["scale"], state(3)["scale"]["master"][0])


def test_a_checkpoint_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    (save(tmp_path, 5, state()) / CHECKPOINT_FILE).unlink()
    directory = save(tmp_path, 5, state(seed=1))
    assert torch.equal(load_weights(directory)["norm.weight"], state(seed=1)["norm.weight"]["master"])


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_space_makes_all_give_the_save_up(tmp_path: Path, monkeypatch: Any, rank: int) -> None:
    honest = rank_file.write

    def write(prefix: Path, *arguments: Any, **named: Any) -> None:
        if "step-00000002" in str(prefix) and f"rank-0000{rank}" in prefix.name:
            raise FULL
        honest(prefix, *arguments, **named)

    monkeypatch.setattr(rank_file, "write", write)
    said: list[str] = []
    ranks = savers(tmp_path, 2, said=said)
    for step in (1, 2, 3):
        for number, saver in enumerate(ranks):
            saver.begin(record(step, world_size=2), shares(state(step), number, 2))
        settle(ranks)
        assert [saver.failure is None for saver in ranks] == [step != 2] * 2
    assert names(tmp_path) == ["step-00000001", "step-00000003"]
    (text,) = said
    assert text.startswith(
        "the checkpoint of step 2 could not be written (No space left on device); the checkpoints before"
    )


def test_metrics_that_cannot_be_written_keep_the_checkpoint_back(tmp_path: Path) -> None:
    def full() -> None:
        raise FULL

    said: list[str] = []
    save(tmp_path, 1, state(), said=said, before=full)
    assert names(tmp_path) == []
    assert "could not be written" in said[0]


def test_old_checkpoints_that_cannot_be_deleted_are_told_of_and_the_new_one_stands(tmp_path: Path) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    said: list[str] = []
    ranks = savers(tmp_path, 2, said=said, after=refuse)
    for rank, saver in enumerate(ranks):
        saver.begin(record(1, world_size=2), shares(state(), rank, 2))
    assert ranks[0].wait(10)
    settle(ranks)
    assert [saver.failure for saver in ranks] == [None, None]
    assert names(tmp_path) == ["step-00000001"]
    assert said == [
        "older checkpoints could not be deleted (Operation not permitted); training goes on, and tries again"
    ]


def test_an_error_of_our_own_making_is_raised(tmp_path: Path) -> None:
    def wrong() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        save(tmp_path, 1, state(), before=wrong)


def save_and_crash(rank: Rank, root: Path, number: int) -> str:
    """Save a checkpoint and delete an old one, and end without a word before the n-th call that changes the disk."""
    left = [number]

    def count(honest: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return honest(*arguments, **named)

        return counted

    for name in ("write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "open"):
        setattr(os, name, count(getattr(os, name)))
    save(root, 6, state(6), world_size=2, after=lambda: retain(root, RetentionConfig(newest=2)))
    return "done"


def test_a_machine_that_stops_between_any_two_calls_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    number, result = 0, None
    while result != "done":
        root = tmp_path / str(number)
        for step in (2, 4):
            save(root, step, state(step))
        (result,) = run_ranks(save_and_crash, 1, root, number)
        assert result in ("done", 9)
        found = newest(root)
        assert found is not None
        step = verify(found).step
        assert step in (4, 6)
        assert torch.equal(load_weights(found)["norm.weight"], state(step)["norm.weight"]["master"])
        delete_unfinished(root)
        save(root, 8, state(8))
        assert verify(root / "step-00000008").step == 8
        number += 1
    assert number > 40


def test_everything_is_on_disk_before_the_checkpoint_has_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    synced: list[str] = []
    honest, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        honest(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        synced.append(f"renamed {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    directory = save(tmp_path, 5, state(), world_size=2)
    before = synced[: synced.index("renamed step-00000005")]
    endings = [name.partition(".json.")[0].lstrip(".") for name in before]
    assert {path.name for path in directory.iterdir()} <= {*before, *(f"{name}.json" for name in endings)}
    assert any(name.endswith(".partial") for name in before), "the names in the directory"
    assert synced[synced.index("renamed step-00000005") + 1] == tmp_path.name


LOSSES = {10: 5.0, 20: 3.0, 30: 4.0, 40: float("nan"), 50: 4.5}


def kept(
    rule: RetentionConfig,
    *,
    own: set[int] | None = None,
    sound_step: int = 50,
    validation_losses: dict[int, float] | None = None,
) -> set[int]:
    return steps_to_keep(
        LOSSES,
        rule,
        is_own=(own or set(LOSSES)).__contains__,
        sound_step=sound_step,
        validation_losses=validation_losses or {},
    )


def test_what_is_kept_follows_the_rule() -> None:
    assert kept(RetentionConfig(newest=1)) == {50}
    assert kept(RetentionConfig(newest=2)) == {40, 50}
    assert kept(RetentionConfig(newest=1, every_steps=20)) == {20, 40, 50}
    assert kept(RetentionConfig(newest=1, best=2)) == {20, 30, 50}
    nothing = steps_to_keep({}, RetentionConfig(), is_own=lambda step: True, sound_step=0, validation_losses={})
    assert nothing == set()


def test_the_lowest_validation_loss_stays_whatever_the_rule_and_the_best_go_by_it() -> None:
    held_out = {10: 2.5, 20: 2.0, 30: 1.5, 40: float("nan"), 50: 1.5}
    assert kept(RetentionConfig(newest=1), validation_losses=held_out) == {30, 50}
    assert kept(RetentionConfig(newest=1, best=3), validation_losses=held_out) == {20, 30, 50}
    assert kept(RetentionConfig(newest=1), validation_losses={40: float("nan")}) == {50}


def test_a_checkpoint_that_the_recipe_does_not_ask_for_stays_while_it_is_the_newest() -> None:
    assert kept(RetentionConfig(newest=1), own={10, 30}) == {30, 50}
    assert kept(RetentionConfig(newest=2, best=1, every_steps=20), own={10, 30, 40, 50}) == {30, 40, 50}


@pytest.mark.parametrize(("sound_step", "target"), [(50, 50), (49, 40), (40, 40), (25, 20), (9, 50)])
def test_a_checkpoint_that_a_roll_back_may_go_to_stays(sound_step: int, target: int) -> None:
    assert kept(RetentionConfig(newest=1), sound_step=sound_step) == {50, target}


def test_checkpoints_past_the_rule_are_deleted_and_the_best_stays(tmp_path: Path) -> None:
    for step, loss in ((2, 3.0), (100, 2.0), (30, 1.0), (99, 4.0)):
        save(tmp_path, step, state(), loss=loss)
    retain(tmp_path, RetentionConfig(newest=1, best=1))
    assert names(tmp_path) == ["step-00000030", "step-00000100"]


def test_a_checkpoint_that_is_being_read_stays(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step, state())
    with hold(tmp_path / "step-00000002"):
        retain(tmp_path, RetentionConfig(newest=1))
        assert names(tmp_path) == ["step-00000002", "step-00000004"]
    retain(tmp_path, RetentionConfig(newest=1))
    assert names(tmp_path) == ["step-00000004"]


def test_a_deletion_that_was_killed_is_finished_by_the_next_start(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step, state())
    directory_of(tmp_path, 2).rename(tmp_path / ".step-00000002.deleted")
    delete_unfinished(tmp_path)
    assert names(tmp_path) == ["step-00000004"]


FILES = [
    "rank-00001-of-00003.safetensors",
    "rank-00000-of-00003.safetensors",
    "rank-00002-of-00003.json",
    "config.json",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 4, state())
    path = save(tmp_path, 6, state(seed=1)) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flipped" else data[:-1])
    if damage == "gone":
        path.unlink()
    for read in (load_weights, verify):
        with pytest.raises(UserError, match=rf"step-00000006 is damaged: .*{name.partition('.')[0]}") as caught:
            read(path.parent)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"format": 3}', None])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    directory = save(tmp_path, 4, state())
    if content is None:
        (directory / CHECKPOINT_FILE).unlink()
    else:
        (directory / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(UserError, match="step-00000004 is damaged: ") as caught:
        read_record(directory)
    assert "\n" not in str(caught.value)
    assert newest(tmp_path) is None


def test_a_number_of_the_record_that_has_changed_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 4, state()) / CHECKPOINT_FILE
    text = path.read_text()
    for name in ("step", "num_updates", "num_tokens", "next_place", "loss", "world_size"):
        before, mark, after = text.partition(f'"{name}": ')
        path.write_text(before + mark + ("5" if after[0] != "5" else "6") + after[1:])
        with pytest.raises(UserError, match="step-00000004 is damaged"):
            read_record(path.parent)
    path.write_text(text)
    assert read_record(path.parent).step == 4


@pytest.mark.parametrize("flaw", ["missing", "nan"])
def test_weights_that_are_not_all_there_are_named(tmp_path: Path, flaw: str) -> None:
    whole = state()
    if flaw == "missing":
        whole["norm.weight"] = {kind: tensor[:-1] for kind, tensor in whole["norm.weight"].items()}
    else:
        whole["norm.weight"]["master"][2] = torch.nan
    with pytest.raises(UserError, match="lacks parts of norm"):
        load_weights(save(tmp_path, 4, whole))


def model_checkpoint(root: Path, config: Any, edit: Callable[[str], str] = lambda text: text) -> tuple[Path, Any]:
    """A model with the seed 3, and a checkpoint of it."""
    settings = make_model_config(config, vocab_size=320, eos_id=1, pad_id=2)
    model = build_in_memory(settings, seed=3).eval()
    whole = {name: dict.fromkeys(KINDS, p.data.flatten().clone()) for name, p in model.named_parameters()}
    ranks = savers(root, 1, model_config=settings.to_json_string())
    shapes = {edit(name): tuple(p.shape) for name, p in model.named_parameters()}
    parts = iter([Fragment(edit(name), 0, tensors) for name, tensors in whole.items()])
    ranks[0].begin(record(1, world_size=1, shapes=shapes), parts)
    settle(ranks)
    return directory_of(root, 1), model


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_put_together_from_its_checkpoint(tmp_path: Path, tied: bool) -> None:
    config = tiny_config()
    config = config.model_copy(update={"model": config.model.model_copy(update={"tie_word_embeddings": tied})})
    directory, model = model_checkpoint(tmp_path, config)
    ids = torch.arange(16)[None]
    with torch.inference_mode():
        assert torch.equal(load_model(directory)(input_ids=ids).logits, model(input_ids=ids).logits)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    directory, _ = model_checkpoint(tmp_path, tiny_config(), lambda name: name.replace("norm", "form"))
    with pytest.raises(UserError, match="does not fit its configuration"):
        load_model(directory)


def test_the_digests_of_rank_files_are_computed_while_they_are_written(tmp_path: Path) -> None:
    directory = save(tmp_path / CHECKPOINTS, 5, state(), world_size=2)
    digests = rank_file_digests(tmp_path)
    names = [str((directory / f"{rank_file.file_stem(rank, 2)}.safetensors").relative_to(tmp_path)) for rank in (0, 1)]
    assert sorted(digests) == names
    assert all(digests[name] == describe_file(tmp_path / name) for name in names)
    (directory / f"{rank_file.file_stem(0, 2)}.json").write_text("damaged")
    assert sorted(rank_file_digests(tmp_path)) == names[1:]  # the other is read, when it is committed


def test_a_checkpoint_from_before_digests_were_written_loads_and_is_read_when_it_is_committed(tmp_path: Path) -> None:
    whole = state()
    directory = save(tmp_path / CHECKPOINTS, 5, whole, world_size=2)
    for rank in (0, 1):
        path = directory / f"{rank_file.file_stem(rank, 2)}.json"
        sums = json.loads(path.read_text(encoding="utf-8"))
        del sums["sha256"]
        path.write_text(json.dumps(sums), encoding="utf-8")
    assert rank_file_digests(tmp_path) == {}
    assert torch.equal(load_weights(directory)["norm.weight"], whole["norm.weight"]["master"])
    assert verify(directory).step == 5


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOLCK, errno.ESTALE])
def test_a_lock_that_is_refused_while_old_checkpoints_are_deleted_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    save(tmp_path, 1, state())
    monkeypatch.setattr("fcntl.flock", refuse)
    said: list[str] = []
    save(tmp_path, 2, state(), said=said, after=lambda: retain(tmp_path, RetentionConfig(newest=1)))
    assert said == [f"older checkpoints could not be deleted ({os.strerror(code)}); training goes on, and tries again"]


@pytest.mark.parametrize("name", ["checkpoint.json", "rank-00000-of-00003.json", "rank-00000-of-00003.safetensors"])
def test_a_checkpoint_that_cannot_be_read_for_now_is_not_called_damaged_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    directory = save(tmp_path, 1, state())
    save(tmp_path, 2, state())
    honest = Path.open

    def stale(path: Path, *arguments: Any, **named: Any) -> Any:
        if path == directory / name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return honest(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", stale)
        with pytest.raises(InfrastructureError, match=r"step-00000001 cannot be read \(.*Stale file handle"):
            verify(directory)
        retain(tmp_path, RetentionConfig(newest=1))
    assert (directory in list_checkpoints(tmp_path)) == (name == "checkpoint.json")
