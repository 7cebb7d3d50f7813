"""Where training goes on: the newest checkpoint that is whole and counts, the one it continues from, or the start."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from configs.base import UserError
from training.checkpoint import directory as checkpoint
from training.checkpoint.retention import hold
from training.checkpoint.rollbacks import counts, position_after
from training.records import CheckpointRecord, Position, Rollback
from training.zero.engine import set_num_updates
from training.zero.fragments import needed_fragments, publish


@dataclass(frozen=True)
class Progress:
    """How far training is."""

    step: int = 0
    num_updates: int = 0
    num_tokens: int = 0
    position: Position = field(default_factory=Position)
    num_rollbacks: int = 0

    @property
    def num_skipped(self) -> int:
        """Steps without an update."""
        return self.step - self.num_updates


def progress_of(record: CheckpointRecord) -> Progress:
    """What a checkpoint says of it."""
    return Progress(record.step, record.num_updates, record.num_tokens, record.position, record.num_rollbacks)


def restore(
    engine: object,
    root: Path,
    *,
    first: Progress,
    rollbacks: list[Rollback],
    tell: Callable[[str], None],
) -> Progress | None:
    """Load the newest checkpoint under `root` that counts, and of which every rank finds what it needs whole.

    `first` is where the run began. Collective. None if there is no such checkpoint: the engine's state may then be
    that of a damaged one, in part.
    """
    for directory in _candidates(root):
        record, problem = _load(engine, directory, rollbacks, before=first.num_rollbacks)
        problems: list[str | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
        if not any(problems):
            if record is not None:
                return _resume(engine, record, rollbacks, before=first.num_rollbacks)
            continue  # it is of a course that was left
        for text in dict.fromkeys(text for text in problems if text):
            tell(
                f"{text}; it is kept as {checkpoint.DAMAGED}{directory.name}, and training goes on from the one "
                "before, or from the start if there is none"
            )
    return None


def drop_void(root: Path, rollbacks: list[Rollback], *, before: int) -> None:
    """Delete the checkpoints of a course that was left by a roll-back. For one rank to do."""
    for directory in checkpoint.named(root) if rollbacks else ():
        with suppress(UserError):  # a damaged one is told of when it is tried
            if not counts(checkpoint.read_record(directory), rollbacks, before=before):
                checkpoint.discard(directory)


def set_aside_newer(root: Path, step: int) -> None:
    """Take checkpoints after `step`, which were found damaged, out of the way of those to come. For one rank to do."""
    for directory in checkpoint.named(root):
        if checkpoint.step_of(directory) > step:
            aside = directory.with_name(f"{checkpoint.DAMAGED}{directory.name}")
            shutil.rmtree(aside, ignore_errors=True)
            directory.rename(aside)


def load_checkpoint(engine: object, directory: Path) -> Progress:
    """Load one checkpoint and no other. Collective. Raises UserError on every rank if any finds it damaged."""
    with hold(directory):
        record, problem = _load(engine, directory, [], before=0)
    problems: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    if found := [text for text in problems if text]:
        raise UserError(found[0])
    assert record is not None
    return _resume(engine, record, [], before=record.num_rollbacks)


def _candidates(root: Path) -> list[Path]:
    """As rank 0 sees them."""
    found = [checkpoint.named(root) if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0] or []


def _load(
    engine: object, directory: Path, rollbacks: list[Rollback], *, before: int
) -> tuple[CheckpointRecord | None, str | None]:
    """The record, once loaded, or None if it does not count; and what is wrong with it."""
    try:
        record = checkpoint.read_record(directory)
        if not counts(record, rollbacks, before=before):
            return None, None
        checkpoint.load_fragments(directory, record, needed_fragments(engine))
    except UserError as error:
        return None, str(error)
    return record, None


def _resume(engine: object, record: CheckpointRecord, rollbacks: list[Rollback], *, before: int) -> Progress:
    set_num_updates(engine, record.num_updates)
    publish(engine)
    position = position_after(record.position, rollbacks[record.num_rollbacks - before :])
    return replace(progress_of(record), position=position, num_rollbacks=before + len(rollbacks))
