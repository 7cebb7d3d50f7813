"""Prefetch: what a step reads is what the order says, whoever reads it and however far ahead."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.base import UserError
from tests.training.ranks import tiny_config, tiny_corpus
from training.data.batches import Batches
from training.data.passes import Plans, even_plan
from training.data.position import skip_places, take_places
from training.data.prefetch import Prefetcher, StepInput
from training.records import Position

BATCH = 5


def batches_of(directory: Path) -> Batches:
    return Batches(tiny_corpus(directory), tiny_config(global_batch_size=BATCH))


def prefetcher(batches: Batches, *, rank: int = 0, **changes: Any) -> Prefetcher:
    sizes = {"batch_size_at": lambda step: BATCH, "equal_rows": False} | changes
    return Prefetcher(batches, rank=rank, boundary_id=1, device=torch.device("cpu"), **sizes)


def even(world_size: int = 1) -> Plans:
    return Plans(lambda num_samples: even_plan(num_samples, world_size, size=2))


def tokens_of(step: StepInput) -> list[list[list[int]]]:
    return [rows.tokens.tolist() for rows, _ in step.micro_batches]


def expected(batches: Batches, position: Position, *, rank: int = 0, world_size: int = 1) -> list[list[list[int]]]:
    batch = batches.batch(take_places(position, BATCH)[0])
    plan = even_plan(BATCH, world_size, size=2)
    return [micro.tokens.tolist() for micro in batches.micro_batches(batch, plan, rank=rank)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_steps_are_those_of_the_order(tmp_path: Path, world_size: int) -> None:
    batches = batches_of(tmp_path)
    for rank in range(world_size):
        reader, position = prefetcher(batches, rank=rank), Position()
        plans = even(world_size)
        for step in range(6):
            found = reader.take(position, plans, step=step, is_last=step == 5)
            assert tokens_of(found) == expected(batches, position, rank=rank, world_size=world_size)
            assert found.first_place == step * BATCH
            for rows, streams in found.micro_batches:
                assert len(streams) == len(rows.lengths) == len(rows.tokens)
                bears_loss = np.arange(rows.tokens.shape[1] - 1) < rows.lengths.numpy()[:, None]
                assert rows.where.tolist() == np.flatnonzero(bears_loss).tolist()
                assert rows.targets.tolist() == rows.tokens[:, 1:].numpy()[bears_loss].tolist()
            position = found.position
        reader.close()


def test_the_next_step_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    batches, read, main = batches_of(tmp_path), [], threading.get_ident()
    original = batches.batch

    def batch(places: tuple[range, ...]) -> Any:
        read.append((places[0].start, threading.get_ident()))
        return original(places)

    batches.batch = batch  # type: ignore[method-assign]
    reader, plans = prefetcher(batches), even()
    first = reader.take(Position(), plans, step=0, is_last=False)
    assert reader._next is not None
    reader._next[1].result()
    assert [place for place, _ in read] == [0, BATCH] and main not in [thread for _, thread in read]
    reader.take(first.position, plans, step=1, is_last=True)
    assert [place for place, _ in read] == [0, BATCH], "after the last step nothing is read"
    reader.close()


def test_after_a_roll_back_what_was_read_ahead_is_not_used(tmp_path: Path) -> None:
    batches = batches_of(tmp_path)
    reader, plans = prefetcher(batches), even()
    reader.take(Position(), plans, step=0, is_last=False)
    elsewhere = skip_places(Position(), 5, 12)
    found = reader.take(elsewhere.model_copy(update={"next_place": 3}), plans, step=1, is_last=True)
    assert tokens_of(found) == expected(batches, Position(next_place=3, skipped=((5, 12),)))
    assert found.first_place == 3 and found.position.next_place == 15
    reader.close()


def test_what_reading_ahead_raises_is_raised_when_the_step_is_asked_for(tmp_path: Path) -> None:
    batches = batches_of(tmp_path)
    original = batches.batch

    def batch(places: tuple[range, ...]) -> Any:
        if places[0].start == BATCH:
            raise UserError("shard b is missing")
        return original(places)

    batches.batch = batch  # type: ignore[method-assign]
    reader, plans = prefetcher(batches), even()
    first = reader.take(Position(), plans, step=0, is_last=False)
    with pytest.raises(UserError, match="shard b is missing"):
        reader.take(first.position, plans, step=1, is_last=False)
    reader.close()


@pytest.mark.parametrize("world_size", [1, 2, 4, 7])
def test_equal_rows_are_filled_up_without_loss(tmp_path: Path, world_size: int) -> None:
    batches, targets = batches_of(tmp_path), 0
    for rank in range(world_size):
        reader = prefetcher(batches, rank=rank, equal_rows=True)
        found = reader.take(Position(), even(world_size), step=0, is_last=True)
        assert len({tuple(rows.tokens.shape) for rows, _ in found.micro_batches}) == 1
        targets += sum(int(rows.lengths.sum()) for rows, _ in found.micro_batches)
        reader.close()
    assert targets == found.batch.num_targets
