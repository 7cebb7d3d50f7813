"""Checkpoints: fragments of the fp32 weights and the optimizer's moments, keyed by parameter name and offset.

    step-00000200/
      rank-00000-of-00002.safetensors   what rank 0 owned: tensors `<kind>/<name>@<offset>` (rank_file.py)
      rank-00000-of-00002.json          its checksums
      rank-00001-of-00002...
      index.json                        which rank has which part of each parameter (fragment_index.py)
      config.json                       the transformers configuration of the model
      checkpoint.json                   step, place in the data, shapes (training/records.py), written last

A checkpoint counts as complete when the directory has its name: all files are written into a hidden directory, which
is renamed once every rank's files and the record are on disk (training/checkpoint/async_save.py does so while training
goes on). Loading runs no code: safetensors and JSON only, and everything that is read is verified.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Literal

import torch
import xxhash
from safetensors import SafetensorError

from cluster.host.files import inside, sync, write_text
from cluster.storage.errors import error_class
from configs.base import InfrastructureError, UserError
from configs.pools import RetentionConfig
from configs.text import one_line
from training.checkpoint.fragment_index import (
    INDEX_FILE,
    FragmentIndex,
    OpenRankFile,
    make_index,
    open_rank_file,
    read_weight,
)
from training.checkpoint.rank_file import RankFile, ReadRequest, file_stem, split_key, unreadable
from training.checkpoint.retention import hold, steps_to_keep, unless_held
from training.records import CHECKPOINT_FILE, CheckpointRecord, list_checkpoints, note_deleted, step_of

MODEL_CONFIG = "config.json"
DAMAGED = ".damaged-"
"""What the name of a checkpoint that was found damaged, and passed over, begins with."""


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raise the OSError, such as a full disk, that safetensors hides in the text of its own exception."""
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise


def partial_directory(directory: Path, start_id: str) -> Path:
    """Return where the ranks write the files of a checkpoint before it has its name; another one after each restart."""
    return directory.with_name(f".{directory.name}.{start_id}.partial")


def delete_unfinished(root: Path) -> None:
    """Delete the partial checkpoints that killed ranks left."""
    for stale in root.glob(".step-*"):
        shutil.rmtree(stale)


def commit_checkpoint(partial: Path, directory: Path, record: CheckpointRecord, index: FragmentIndex) -> None:
    """Write the index and the record of a checkpoint whose rank files are all on disk, and give it its name."""
    write_text(partial / INDEX_FILE, index.model_dump_json())
    files = {name: small_file_checksum(partial / name) for name in (MODEL_CONFIG, INDEX_FILE)}
    record = record.model_copy(update={"files": files})
    write_text(partial / CHECKPOINT_FILE, record.sealed().model_dump_json(indent=2))
    if directory.exists():  # a damaged one, or this run would have gone on from it
        delete_checkpoint(directory)
    partial.rename(directory)
    sync(directory.parent)


def delete_checkpoint(directory: Path) -> None:
    """Delete a checkpoint. It loses its name first, so that a half-deleted one is never taken for a whole one."""
    gone = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone)


def apply_retention(root: Path, rule: RetentionConfig, *, is_own: Callable[[int], bool], sound_step: int) -> None:
    """Delete the checkpoints that neither the rule nor a roll-back needs and nobody holds (steps_to_keep)."""
    losses, validation_losses, unread = dict[int, float](), dict[int, float](), set[int]()
    read: dict[int, CheckpointRecord] = {}
    for directory in list_checkpoints(root):
        try:
            record = read_record(directory)
        except InfrastructureError:  # it may be whole
            unread.add(step_of(directory))
            continue
        except UserError:  # a damaged one goes
            continue
        read[record.step], losses[record.step] = record, record.loss
        if record.validation_loss is not None:
            validation_losses[record.step] = record.validation_loss
    stay = unread | steps_to_keep(
        losses, rule, is_own=is_own, sound_step=sound_step, validation_losses=validation_losses
    )
    for directory in list_checkpoints(root):
        if step_of(directory) not in stay:
            with unless_held(directory) as free:
                if free:
                    delete_checkpoint(directory)  # first: a disk may be full
                    known = read.get(step_of(directory))
                    if known is not None and known.own is not False:
                        note_deleted(root, known)


def read_record(directory: Path) -> CheckpointRecord:
    """Read the record and verify the small files, but for the index, against it. Raises UserError on a damaged one."""
    try:
        record = CheckpointRecord.model_validate_json((directory / CHECKPOINT_FILE).read_text(encoding="utf-8"))
        for name, expected in record.files.items():
            if name != INDEX_FILE and small_file_checksum(inside(directory, name)) != expected:
                raise UserError(f"checkpoint {directory} is damaged: {name} has changed since it was written")
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        if error_class(error) is InfrastructureError:
            raise unreadable(directory, error) from error
        raise UserError(f"checkpoint {directory} is damaged: {one_line(error)}") from error
    return record


def read_index(directory: Path, record: CheckpointRecord) -> FragmentIndex:
    """Read the index of a checkpoint; it is made anew where it is damaged, or an older checkpoint has none."""
    try:
        data = (directory / INDEX_FILE).read_bytes()
    except OSError as error:
        if error_class(error) is InfrastructureError:
            raise unreadable(directory, error) from error
        data = b""
    if xxhash.xxh3_128_hexdigest(data) != record.files.get(INDEX_FILE):
        return make_index(directory, world_size=record.world_size)
    return FragmentIndex.model_validate_json(data)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in files, of which rows can be read."""

    shape: tuple[int, ...]
    read: Callable[[int, int], torch.Tensor]
    """Reads the rows from the first number up to the second, on the CPU; the whole of a tensor without dimensions."""

    def whole(self) -> torch.Tensor:
        """Read all of it."""
        return self.read(0, self.shape[0] if self.shape else 1)

    def on_meta(self) -> torch.Tensor:
        """Return a tensor of its shape without memory."""
        return torch.empty(self.shape, device="meta")


@contextmanager
def open_stored_weights(directory: Path) -> Iterator[dict[str, StoredTensor]]:
    """Open the weights of a checkpoint, by the parameters' names, each in fp32; nothing is read yet.

    The checkpoint is not deleted meanwhile. Raises UserError on a damaged one, here or when the part that is damaged is
    read.
    """
    with hold(directory), ExitStack() as stack:
        record = read_record(directory)
        index = read_index(directory, record)

        @cache
        def open_file(rank: int) -> OpenRankFile:
            return open_rank_file(
                stack.enter_context(closing(RankFile(directory / file_stem(rank, record.world_size))))
            )

        def read(name: str, first: int, last: int) -> torch.Tensor:
            shape = record.shapes[name]
            width = prod(shape[1:])
            flat = torch.empty((last - first) * width)
            read_weight(directory, index, name, first * width, flat, open_file=open_file)
            return flat.view(last - first, *shape[1:]) if shape else flat.view(())

        yield {name: StoredTensor(shape, partial(read, name)) for name, shape in record.shapes.items()}


def load_weights(directory: Path, *, kind: Literal["master", "ema"] = "master") -> dict[str, torch.Tensor]:
    """Return every parameter by name, fp32, on the CPU, assembled from the fragments of all ranks: its weights, or the
    moving average of them. Raises UserError, also if there is no average."""
    with hold(directory):
        record = read_record(directory)
        if kind == "ema" and not read_index(directory, record).has_kind(kind):
            raise UserError(
                f"checkpoint {directory} has no moving average of the weights: its training had no `ema`; take "
                "`weights: trained`"
            )
        flat = {name: torch.full((torch.Size(shape).numel(),), torch.nan) for name, shape in record.shapes.items()}
        for file in _rank_files(directory, record):
            with closing(file):
                file.read(_weights_in(file, flat, kind))
    if missing := [name for name, tensor in flat.items() if tensor.isnan().any()]:
        raise UserError(f"checkpoint {directory} lacks parts of {missing[0]}, or they are not numbers")
    return {name: tensor.view(record.shapes[name]) for name, tensor in flat.items()}


def small_file_checksum(path: Path) -> str:
    """Return the xxh3-128 of a small file, in hex."""
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def _rank_files(directory: Path, record: CheckpointRecord) -> Iterator[RankFile]:
    return (RankFile(directory / file_stem(rank, record.world_size)) for rank in range(record.world_size))


def _weights_in(file: RankFile, flat: dict[str, torch.Tensor], wanted: str) -> Iterator[ReadRequest]:
    for entry in file.entries:
        kind, name, offset = split_key(entry.key)
        if kind in (wanted, "frozen"):
            yield ReadRequest(entry.start, entry.stop, entry.dtype, flat[name][offset : offset + entry.numel])
