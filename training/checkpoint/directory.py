"""Checkpoints: fragments of the fp32 weights and the optimizer's moments, keyed by parameter name and offset.

    step-00000200/
      rank-00000-of-00002.safetensors   what rank 0 owned: tensors `<kind>/<name>@<offset>` (rank_file.py)
      rank-00000-of-00002.json          its checksums
      rank-00001-of-00002...
      config.json                       the transformers configuration of the model
      checkpoint.json                   step, place in the data, shapes (training/records.py), written last

All files are written into a hidden directory, which gets its name, in one rename, when every rank's files and the
record are on disk. Loading runs no code: safetensors and JSON only, and everything that is read is verified.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError

from cluster.host.files import inside, sync, write_text
from configs.base import UserError
from configs.pools import RetentionConfig
from training.checkpoint.rank_file import Entry, RankFile, Stretch, split_key, stem
from training.checkpoint.retention import hold, kept, unless_held
from training.records import CHECKPOINT_FILE, CheckpointRecord
from training.zero.fragments import Fragment

MODEL_CONFIG = "config.json"
DAMAGED = ".damaged-"
"""What the name of a checkpoint that was found damaged, and passed over, begins with."""

_NAME = re.compile(r"step-\d{8,}")


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raise the OSError, such as a full disk, that safetensors hides in the text of its own."""
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise


def directory_of(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps belongs."""
    return root / f"step-{step:08d}"


def gathering_place(directory: Path, attempt: str) -> Path:
    """Where the files of a checkpoint are gathered before it has its name; another one in each attempt."""
    return directory.with_name(f".{directory.name}.{attempt}.partial")


def clear_unfinished(root: Path) -> None:
    """Remove what killed attempts left."""
    for stale in root.glob(".step-*"):
        shutil.rmtree(stale)


def finish(gathering: Path, directory: Path, record: CheckpointRecord) -> None:
    """Give a checkpoint whose rank files are all on disk its record and its name."""
    record = record.model_copy(update={"files": {MODEL_CONFIG: checksum(gathering / MODEL_CONFIG)}})
    write_text(gathering / CHECKPOINT_FILE, record.sealed().model_dump_json(indent=2))
    if directory.exists():  # a damaged one, or this run would have gone on from it
        discard(directory)
    gathering.rename(directory)
    sync(directory.parent)


def discard(directory: Path) -> None:
    """Delete a checkpoint, in such a way that a half-deleted one is never taken for one."""
    gone = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone)


def retain(root: Path, rule: RetentionConfig) -> None:
    """Delete the checkpoints that the rule does not keep and nobody holds."""
    losses = {}
    for directory in named(root):
        with suppress(UserError):  # a damaged one goes
            losses[step_of(directory)] = read_record(directory).loss
    stay = kept(losses, rule)
    for directory in named(root):
        if step_of(directory) not in stay:
            with unless_held(directory) as free:
                if free:
                    discard(directory)


def step_of(directory: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(directory.name.removeprefix("step-"))


def named(root: Path) -> list[Path]:
    """The checkpoints under `root`, newest first, whether whole or damaged."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), key=step_of, reverse=True)


def read_record(directory: Path) -> CheckpointRecord:
    """The record, once the small files have been found right. Raises UserError if they are not."""
    try:
        record = CheckpointRecord.model_validate_json((directory / CHECKPOINT_FILE).read_text(encoding="utf-8"))
        for name, expected in record.files.items():
            if checksum(inside(directory, name)) != expected:
                raise UserError(f"checkpoint {directory} is damaged: {name} has changed since it was written")
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise UserError(f"checkpoint {directory} is damaged: {' '.join(str(error).split())[:200]}") from error
    return record


def load_fragments(directory: Path, record: CheckpointRecord, fragments: Iterable[Fragment]) -> None:
    """Fill the fragments that this rank needs now, whatever ranks and ZeRO stage wrote the checkpoint.

    Reads the blocks that hold them and no others, and verifies those. Raises UserError if one is damaged or missing;
    the fragments may then be filled in part.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(closing(file)) for file in _rank_files(directory, record)]
        pieces = _pieces(files)
        wanted: list[list[Stretch]] = [[] for _ in files]
        for fragment in fragments:
            for kind, tensor in fragment.tensors.items():
                found = [_overlap(piece, fragment.offset, tensor) for piece in pieces.get((kind, fragment.name), [])]
                if sum(stretch.into.numel() for _, stretch in found) != tensor.numel():
                    raise UserError(
                        f"checkpoint {directory} lacks part of {kind}/{fragment.name}; it is of another model, another "
                        "optimizer, or other frozen parameters"
                    )
                for number, stretch in found:
                    if stretch.start < stretch.stop:
                        wanted[number].append(stretch)
        for file, stretches in zip(files, wanted, strict=True):
            file.read(stretches)


def load_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Every parameter by name, fp32, on the CPU, put together from the fragments of all ranks."""
    with hold(directory):
        record = read_record(directory)
        flat = {name: torch.full((torch.Size(shape).numel(),), torch.nan) for name, shape in record.shapes.items()}
        for file in _rank_files(directory, record):
            with closing(file):
                file.read(_weights_in(file, flat))
    if missing := [name for name, tensor in flat.items() if tensor.isnan().any()]:
        raise UserError(f"checkpoint {directory} lacks parts of {missing[0]}, or they are not numbers")
    return {name: tensor.view(record.shapes[name]) for name, tensor in flat.items()}


def checksum(path: Path) -> str:
    """Of a small file: xxh3-128, in hex."""
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


@dataclass(frozen=True)
class _Piece:
    """A tensor in a file: elements `first` to `last` - 1 of a parameter."""

    file: int
    entry: Entry
    first: int
    last: int


def _rank_files(directory: Path, record: CheckpointRecord) -> Iterator[RankFile]:
    return (RankFile(directory / stem(rank, record.world_size)) for rank in range(record.world_size))


def _pieces(files: list[RankFile]) -> dict[tuple[str, str], list[_Piece]]:
    """By kind and parameter."""
    pieces: dict[tuple[str, str], list[_Piece]] = {}
    for number, file in enumerate(files):
        for entry in file.entries:
            kind, name, offset = split_key(entry.key)
            pieces.setdefault((kind, name), []).append(_Piece(number, entry, offset, offset + entry.numel))
    return pieces


def _overlap(piece: _Piece, offset: int, tensor: torch.Tensor) -> tuple[int, Stretch]:
    """The file, and what is in it of the part of the parameter that begins at `offset`; perhaps nothing."""
    start = min(max(offset, piece.first), piece.last)
    stop = max(start, min(offset + tensor.numel(), piece.last))
    width, byte = piece.entry.dtype.itemsize, piece.entry.start
    into = tensor[start - offset : stop - offset] if start < stop else tensor[:0]
    first, last = byte + (start - piece.first) * width, byte + (stop - piece.first) * width
    return piece.file, Stretch(first, last, piece.entry.dtype, into)


def _weights_in(file: RankFile, flat: dict[str, torch.Tensor]) -> Iterator[Stretch]:
    for entry in file.entries:
        kind, name, offset = split_key(entry.key)
        if kind in ("master", "frozen"):
            yield Stretch(entry.start, entry.stop, entry.dtype, flat[name][offset : offset + entry.numel])
