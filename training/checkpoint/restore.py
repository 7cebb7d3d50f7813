"""Where training resumes: the newest checkpoint that is whole and valid, the one that it continues, or the start.

All ranks decide alike: rank 0 lists the candidates, each rank loads its part, and one that any rank finds damaged is
passed over by all.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from configs.base import InfrastructureError, UserError
from training.checkpoint.directory import (
    DAMAGED,
    delete_checkpoint,
    load_fragments,
    read_record,
)
from training.checkpoint.retention import hold
from training.checkpoint.rollbacks import is_still_valid, position_after
from training.records import CheckpointRecord, Position, Rollback, list_checkpoints, step_of
from training.zero.engine import set_num_updates
from training.zero.fragments import copy_masters_to_weights, needed_fragments


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
        """Steps without an update of the weights."""
        return self.step - self.num_updates


def progress_of(record: CheckpointRecord) -> Progress:
    """Return how far training was when a checkpoint was written."""
    return Progress(record.step, record.num_updates, record.num_tokens, record.position, record.num_rollbacks)


def restore(
    engine: object,
    root: Path,
    *,
    first: Progress,
    rollbacks: list[Rollback],
    notify: Callable[[str], None],
) -> Progress | None:
    """Load the newest checkpoint under `root` that is valid and of which every rank finds its part whole. Collective.

    `first` is where the run began. Returns None if there is no such checkpoint: the engine's state may then be, in
    part, that of a damaged one. A checkpoint from before a roll-back that abandoned it is passed over.
    """
    for directory in _candidates(root):
        record, problem = _load(engine, directory, rollbacks, before=first.num_rollbacks)
        problems: list[str | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
        if not any(problems):
            if record is not None:
                return _resume(engine, record, rollbacks, before=first.num_rollbacks)
            continue  # a roll-back abandoned it
        for text in dict.fromkeys(text for text in problems if text):
            notify(
                f"{text}; it is kept as {DAMAGED}{directory.name}, and training goes on from the one "
                "before, or from the start if there is none"
            )
    return None


def delete_abandoned(root: Path, rollbacks: list[Rollback], *, before: int) -> None:
    """Delete the checkpoints that a roll-back abandoned. One rank calls this."""
    for directory in list_checkpoints(root) if rollbacks else ():
        with suppress(UserError):  # a damaged one is reported when loading it is tried
            if not is_still_valid(read_record(directory), rollbacks, before=before):
                delete_checkpoint(directory)


def set_aside_damaged(root: Path, step: int) -> None:
    """Rename checkpoints after `step`, which were found damaged, to make way for new ones. One rank calls this."""
    for directory in list_checkpoints(root):
        if step_of(directory) > step:
            aside = directory.with_name(f"{DAMAGED}{directory.name}")
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
    """Return the checkpoints as rank 0 lists them, newest first, so that all ranks try the same. Collective."""
    found = [list_checkpoints(root) if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0] or []


def _load(
    engine: object, directory: Path, rollbacks: list[Rollback], *, before: int
) -> tuple[CheckpointRecord | None, str | None]:
    """Load a checkpoint; return its record, or None if a roll-back abandoned it, and what is wrong with it."""
    try:
        record = read_record(directory)
        if not is_still_valid(record, rollbacks, before=before):
            return None, None
        load_fragments(directory, record, needed_fragments(engine))
    except InfrastructureError:  # the checkpoint may be whole: to pass it over would lose work
        raise
    except UserError as error:
        return None, str(error)
    return record, None


def _resume(engine: object, record: CheckpointRecord, rollbacks: list[Rollback], *, before: int) -> Progress:
    set_num_updates(engine, record.num_updates)
    copy_masters_to_weights(engine)
    position = position_after(record.position, rollbacks[record.num_rollbacks - before :])
    return replace(progress_of(record), position=position, num_rollbacks=before + len(rollbacks))
