"""Where training resumes: the newest checkpoint that is whole and valid, the one that it continues, or the start.

All ranks decide alike: rank 0 lists the candidates and reads their records for all, each rank loads its part, and one
that any rank finds damaged is passed over by all.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from configs.base import InfrastructureError, UserError
from training.checkpoint.directory import DAMAGED, delete_checkpoint, read_index, read_record
from training.checkpoint.fragment_index import FragmentIndex, load_fragments
from training.checkpoint.retention import hold
from training.checkpoint.rollbacks import is_still_valid, position_after
from training.records import CheckpointRecord, Position, RecentStep, Rollback, list_checkpoints, step_of
from training.speeds import Speeds
from training.zero.config import EMA
from training.zero.ema import begin_ema
from training.zero.engine import set_num_updates
from training.zero.fragments import copy_masters_to_weights, needed_fragments
from training.zero.process_group import from_rank_0


@dataclass(frozen=True)
class Progress:
    """How far training is."""

    step: int = 0
    num_updates: int = 0
    """Updates of the weights that the optimizer's moments have seen."""

    num_skipped: int = 0
    """Steps without an update of the weights."""

    num_tokens: int = 0
    position: Position = field(default_factory=Position)
    num_rollbacks: int = 0
    recent: tuple[RecentStep, ...] = ()
    """CheckpointRecord.recent; not kept up to date between checkpoints."""

    speeds: Speeds | None = None
    """CheckpointRecord.speeds; not kept up to date either."""


def progress_of(record: CheckpointRecord) -> Progress:
    """Return how far training was when a checkpoint was written."""
    return Progress(
        record.step,
        record.num_updates,
        record.step - record.num_updates if record.num_skipped is None else record.num_skipped,
        record.num_tokens,
        record.position,
        record.num_rollbacks,
        record.recent or (),
        record.speeds,
    )


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
    for directory in from_rank_0(lambda: list_checkpoints(root)):
        found = from_rank_0(partial(_read, directory, rollbacks, before=first.num_rollbacks))
        if found is None:
            continue  # a roll-back abandoned it
        problems = _load(engine, directory, found)
        if not problems and isinstance(found, _Found):
            return _resume(engine, found.record, rollbacks, before=first.num_rollbacks)
        for text in problems:
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
        found = from_rank_0(lambda: _read(directory, [], before=0))
        assert found is not None
        problems = _load(engine, directory, found)
    if problems or isinstance(found, str):
        raise UserError(problems[0])
    return _resume(engine, found.record, [], before=found.record.num_rollbacks)


@dataclass(frozen=True)
class _Found:
    """What rank 0 has read of a checkpoint, for all ranks."""

    record: CheckpointRecord
    index: FragmentIndex


def _read(directory: Path, rollbacks: list[Rollback], *, before: int) -> _Found | str | None:
    """Read what is known of a checkpoint; return what is wrong with it, or None if a roll-back abandoned it."""
    try:
        record = read_record(directory)
        if not is_still_valid(record, rollbacks, before=before):
            return None
        return _Found(record, read_index(directory, record))
    except InfrastructureError:  # the checkpoint may be whole: to pass it over would lose work
        raise
    except UserError as error:
        return str(error)


def _load(engine: object, directory: Path, found: _Found | str) -> list[str]:
    """Load a checkpoint; return what is wrong with it, on any rank and each thing once. Collective."""
    if isinstance(found, str):
        return [found]
    problem = None
    try:
        fragments = needed_fragments(engine)
        if not found.index.has_kind(EMA):  # of a training that kept no average
            fragments = (replace(one, tensors=_without_ema(one.tensors)) for one in fragments)
        load_fragments(directory, found.index, fragments, world_size=found.record.world_size)
    except UserError as error:
        problem = error
    problems: list[UserError | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    for passing in (problem for problem in problems if isinstance(problem, InfrastructureError)):
        raise passing  # the checkpoint may be whole: to pass it over would lose work
    if not found.index.has_kind(EMA):
        begin_ema(engine)
    return list(dict.fromkeys(str(problem) for problem in problems if problem))


def _without_ema(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {kind: tensor for kind, tensor in tensors.items() if kind != EMA}


def _resume(engine: object, record: CheckpointRecord, rollbacks: list[Rollback], *, before: int) -> Progress:
    set_num_updates(engine, record.num_updates)
    copy_masters_to_weights(engine)
    position = position_after(record.position, rollbacks[record.num_rollbacks - before :])
    return replace(progress_of(record), position=position, num_rollbacks=before + len(rollbacks))
