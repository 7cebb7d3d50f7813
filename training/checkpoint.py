"""Checkpoints: fragments of the fp32 weights and both Adam moments, keyed by parameter name and offset.

    step-00000200/
      rank-00000-of-00002.safetensors   what rank 0 owned: tensors `<master|exp_avg|exp_avg_sq>/<name>@<offset>`
      rank-00001-of-00002.safetensors
      config.json                       the transformers configuration of the model
      checkpoint.json                   step, tokens, shapes, checksums

All files are written into a hidden directory which gets its name, in one rename, when every rank's file and the
record are on disk. Loading runs no code: safetensors and JSON only, and each file's checksum is checked.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cluster.files import sha256_of, sync, write_text
from configs.base import UserError
from training.engine import MOMENTS, Fragment

RECORD = "checkpoint.json"
MODEL_CONFIG = "config.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointRecord(BaseModel):
    """What a checkpoint says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    step: int
    """Optimizer steps taken."""

    num_tokens: int
    """Tokens that the loss was taken over."""

    world_size: int
    shapes: dict[str, tuple[int, ...]]
    """Of every parameter, by name."""

    sha256: dict[str, str]
    """Of every other file."""


def save_fragments(directory: Path, fragments: Iterator[Fragment], *, rank: int, world_size: int) -> str:
    """Write what one rank owns into an unfinished checkpoint; the file's SHA-256."""
    tensors = {
        f"{kind}/{fragment.name}@{fragment.offset}": tensor.detach().cpu().contiguous()
        for fragment in fragments
        for kind, tensor in fragment.tensors.items()
    }
    path = directory / _rank_file(rank, world_size)
    with system_errors(path):
        save_file(tensors, path)
    sync(path)
    return sha256_of(path)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raise the OSError, such as a full disk, that safetensors hides in the text of its own."""
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise


def begin(directory: Path) -> Path:
    """An empty directory to gather the files of the checkpoint `directory` in."""
    for stale in directory.parent.glob(".step-*"):
        shutil.rmtree(stale)
    gathering = directory.with_name(f".{directory.name}.partial")
    gathering.mkdir(parents=True)
    return gathering


def checksums(gathering: Path, of_ranks: list[str]) -> dict[str, str]:
    """SHA-256 of every file but the record, by name; the ranks' are known from writing them."""
    ranks = {_rank_file(rank, len(of_ranks)): sha256 for rank, sha256 in enumerate(of_ranks)}
    return ranks | {MODEL_CONFIG: sha256_of(gathering / MODEL_CONFIG)}


def finish(gathering: Path, directory: Path, record: CheckpointRecord) -> None:
    """Give a checkpoint whose files are all written its name."""
    write_text(gathering / RECORD, record.model_dump_json(indent=2))
    shutil.rmtree(directory, ignore_errors=True)  # a damaged one, or this run would have gone on from it
    gathering.rename(directory)
    sync(directory.parent)


def keep_newest(root: Path, number: int) -> None:
    """Delete all but the newest `number` checkpoints under `root`."""
    for directory in _directories(root)[number:]:
        gone = directory.with_name(f".{directory.name}.deleted")
        shutil.rmtree(gone, ignore_errors=True)
        directory.rename(gone)  # so that a half-deleted one is never taken for a checkpoint
    for gone in root.glob(".step-*.deleted"):  # also what a killed run left half-deleted
        shutil.rmtree(gone)


def newest(root: Path) -> tuple[tuple[Path, CheckpointRecord] | None, list[str]]:
    """The newest whole checkpoint under `root`, and a sentence about each newer one, which is damaged."""
    complaints: list[str] = []
    for directory in _directories(root):
        try:
            return (directory, read_record(directory)), complaints
        except UserError as error:
            complaints.append(str(error))
    return None, complaints


def read_record(directory: Path) -> CheckpointRecord:
    """The record, once every file's checksum has been found right. Raises UserError on any damage."""
    try:
        record = CheckpointRecord.model_validate_json((directory / RECORD).read_text(encoding="utf-8"))
        for name, sha256 in record.sha256.items():
            if sha256_of(directory / name) != sha256:
                raise UserError(f"checkpoint {directory} is damaged: {name} has changed since it was written")
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise UserError(f"checkpoint {directory} is damaged: {' '.join(str(error).split())[:200]}") from error
    return record


def load_fragments(directory: Path, record: CheckpointRecord, fragments: Iterator[Fragment]) -> None:
    """Fill the fragments that this rank owns now, whatever ranks and ZeRO stage wrote the checkpoint.

    Reads only the stretches that are needed. Raises UserError if one is not in the checkpoint.
    """
    with ExitStack() as stack:
        saved = _saved_pieces(directory, record, stack)
        for fragment in fragments:
            for kind, tensor in fragment.tensors.items():
                filled = 0
                for piece in saved.get(f"{kind}/{fragment.name}", []):
                    filled += _copy_overlap(piece, fragment.offset, tensor)
                if filled != tensor.numel():
                    raise UserError(
                        f"checkpoint {directory} lacks part of {kind}/{fragment.name}; it is of another model"
                    )


@dataclass(frozen=True)
class _Piece:
    """A fragment in a file."""

    file: Any
    key: str
    offset: int
    numel: int


def _saved_pieces(directory: Path, record: CheckpointRecord, stack: ExitStack) -> dict[str, list[_Piece]]:
    pieces: dict[str, list[_Piece]] = {}
    for rank in range(record.world_size):
        file = stack.enter_context(safe_open(directory / _rank_file(rank, record.world_size), framework="pt"))
        for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            name, _, offset = key.rpartition("@")
            (numel,) = file.get_slice(key).get_shape()
            pieces.setdefault(name, []).append(_Piece(file, key, int(offset), numel))
    return pieces


def _copy_overlap(piece: _Piece, offset: int, tensor: torch.Tensor) -> int:
    """Copy what `piece` holds of the stretch that begins at `offset`; the number of elements."""
    start, stop = max(offset, piece.offset), min(offset + tensor.numel(), piece.offset + piece.numel)
    if start >= stop:
        return 0
    values = piece.file.get_slice(piece.key)[start - piece.offset : stop - piece.offset]
    tensor[start - offset : stop - offset].copy_(values)
    return stop - start


def load_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Every parameter by name, fp32, on the CPU, put together from the fragments of all ranks."""
    record = read_record(directory)
    flat = {name: torch.full((torch.Size(shape).numel(),), torch.nan) for name, shape in record.shapes.items()}
    for rank in range(record.world_size):
        with safe_open(directory / _rank_file(rank, record.world_size), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                kind, _, rest = key.partition("/")
                name, _, offset = rest.rpartition("@")
                if kind not in MOMENTS:
                    tensor = file.get_tensor(key)
                    flat[name][int(offset) : int(offset) + tensor.numel()] = tensor
    if missing := [name for name, tensor in flat.items() if tensor.isnan().any()]:
        raise UserError(f"checkpoint {directory} lacks parts of {missing[0]}, or they are not numbers")
    return {name: tensor.view(record.shapes[name]) for name, tensor in flat.items()}


def _directories(root: Path) -> list[Path]:
    """Named checkpoints, newest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def directory_of(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps belongs."""
    return root / f"step-{step:08d}"


def _rank_file(rank: int, world_size: int) -> str:
    return f"rank-{rank:05d}-of-{world_size:05d}.safetensors"
