"""Which checkpoint of a training is taken."""

import math
from pathlib import Path
from typing import Any

import pytest

from configs.base import UserError
from tests.training.checkpoint.test_directory import record
from training.checkpoint.choice import best_step, choose_checkpoints, find_best
from training.records import CHECKPOINT_FILE, CheckpointRecord, directory_of


def save(root: Path, step: int, **more: Any) -> Path:
    """Save the record alone, which is all that is read to choose."""
    directory = directory_of(root, step)
    directory.mkdir(parents=True)
    (directory / CHECKPOINT_FILE).write_text(record(step, world_size=1, **more).sealed().model_dump_json())
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5), (40, math.nan)):
        save(tmp_path, step, validation_loss=loss, own=True)
    save(tmp_path, 43, own=False)
    return tmp_path


def test_last_best_or_a_step_is_taken(root: Path) -> None:
    assert choose_checkpoints(root, "last") == [directory_of(root, 43)]
    assert choose_checkpoints(root, "best") == [directory_of(root, 20)]
    assert choose_checkpoints(root, 30) == [directory_of(root, 30)]
    found = find_best(root)
    assert found is not None and found.step == 20


def test_an_average_is_over_the_recipes_own_up_to_the_chosen_one(root: Path) -> None:
    assert choose_checkpoints(root, "last", average=3) == [directory_of(root, step) for step in (43, 40, 30)]
    save(root, 45, own=True)
    assert choose_checkpoints(root, "last", average=2) == [directory_of(root, step) for step in (45, 40)]
    with pytest.raises(UserError, match=r"has 2 checkpoints up to step 20, and the average is to be over 3"):
        choose_checkpoints(root, "best", average=3)


def test_what_is_not_there_is_told_with_what_is(root: Path) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint of step 25; choose another one \(there are: 10, 20, 30"):
        choose_checkpoints(root, 25)
    (root / "none").mkdir()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        choose_checkpoints(root / "none", "last")
    save(root / "without", 5)
    with pytest.raises(UserError, match=r"no checkpoint in .* has a validation loss, so none is the best"):
        choose_checkpoints(root / "without", "best")


def test_a_damaged_checkpoint_is_passed_over(root: Path) -> None:
    (directory_of(root, 20) / CHECKPOINT_FILE).write_text("{")
    assert choose_checkpoints(root, "best") == [directory_of(root, 30)]


def test_of_equal_losses_the_earliest_is_best() -> None:
    assert best_step({30: 1.0, 20: 1.0, 10: 2.0}) == 20
    assert best_step({10: math.nan}) is None
    assert best_step({}) is None


def test_a_record_of_before_there_was_validation_is_still_valid() -> None:
    old = record(3, world_size=1).sealed()
    later = {"recent", "validation_loss", "own", "batch_ramp", "num_skipped"}
    assert CheckpointRecord.model_validate_json(old.model_dump_json(exclude=later)) == old
