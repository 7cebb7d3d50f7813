"""index.json of a checkpoint: which rank's file holds which part of each parameter.

A rank that loads a checkpoint opens the files that hold what it needs and no others. With as many ranks as wrote it, in
the same ZeRO stage, that is one; all files where it needs all weights, as without ZeRO, and on CPUs in stages 1 and 2
(training/zero/fragments.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from configs.base import UserError
from training.checkpoint.rank_file import RankFile, ReadRequest, TensorEntry, file_stem, key, split_key
from training.zero.fragments import Fragment

INDEX_FILE = "index.json"


class _Parameter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[str, ...]
    """What there is of each element: `master` and the optimizer's moments, or `frozen`."""

    pieces: tuple[tuple[int, int, int], ...]
    """(rank, first element, past the last) of each piece, in the flattened parameter."""


class FragmentIndex(BaseModel):
    """The pieces of all parameters in the files of all ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: Mapping[str, _Parameter]

    def has_kind(self, kind: str) -> bool:
        """Return whether there is such a tensor of any parameter."""
        return any(kind in parameter.kinds for parameter in self.parameters.values())


@dataclass(frozen=True)
class _Wanted:
    """A piece of a file, and where what is needed of it goes."""

    key: str
    first: int
    """First element of the piece in the flattened parameter."""

    offset: int
    """First element of the tensor in the flattened parameter."""

    tensor: torch.Tensor


def make_index(directory: Path, *, world_size: int) -> FragmentIndex:
    """Make the index of the files of `world_size` ranks, by their headers. Raises UserError if one is damaged."""
    kinds: dict[str, set[str]] = {}
    pieces: dict[str, set[tuple[int, int, int]]] = {}
    for rank in range(world_size):
        with closing(RankFile(directory / file_stem(rank, world_size))) as file:
            for entry in file.entries:
                kind, name, offset = split_key(entry.key)
                kinds.setdefault(name, set()).add(kind)
                pieces.setdefault(name, set()).add((rank, offset, offset + entry.numel))
    parameters = {
        name: _Parameter(kinds=tuple(sorted(kinds[name])), pieces=tuple(sorted(pieces[name]))) for name in kinds
    }
    return FragmentIndex(parameters=parameters)


def load_fragments(directory: Path, index: FragmentIndex, fragments: Iterable[Fragment], *, world_size: int) -> None:
    """Fill the fragments that this rank needs, whatever ZeRO stage and number of ranks, `world_size`, wrote them.

    Opens the files, and reads and verifies the blocks, that hold them and no others. Raises UserError if one is damaged
    or missing; the fragments may then be filled in part.
    """
    wanted: dict[int, list[_Wanted]] = {}
    for fragment in fragments:
        for kind, tensor in fragment.tensors.items():
            for rank, piece in _find_pieces(directory, index, kind, fragment, tensor):
                wanted.setdefault(rank, []).append(piece)
    for rank, pieces in sorted(wanted.items()):
        with closing(RankFile(directory / file_stem(rank, world_size))) as file:
            _read_pieces(directory, open_rank_file(file), rank, pieces)


@dataclass(frozen=True)
class OpenRankFile:
    """A rank's file, and what is in it by key."""

    file: RankFile
    entries: Mapping[str, TensorEntry]


def open_rank_file(file: RankFile) -> OpenRankFile:
    """Return a rank's file with its entries by key."""
    return OpenRankFile(file, {entry.key: entry for entry in file.entries})


def read_weight(
    directory: Path,
    index: FragmentIndex,
    name: str,
    offset: int,
    into: torch.Tensor,
    *,
    open_file: Callable[[int], OpenRankFile],
) -> None:
    """Fill a one-dimensional tensor with elements of a parameter's weights, trained or frozen, from `offset` on.

    `open_file` gives the file of a rank. Raises UserError if a part is damaged or missing.
    """
    parameter = index.parameters.get(name)
    kind = "frozen" if parameter and "frozen" in parameter.kinds else "master"
    for rank, piece in _find_pieces(directory, index, kind, Fragment(name, offset, {}), into):
        _read_pieces(directory, open_file(rank), rank, [piece])


def _read_pieces(directory: Path, opened: OpenRankFile, rank: int, pieces: list[_Wanted]) -> None:
    if missing := [piece.key for piece in pieces if piece.key not in opened.entries]:
        raise UserError(f"checkpoint {directory} is damaged: the file of rank {rank} lacks {missing[0]}")
    opened.file.read([_request(opened.entries[piece.key], piece) for piece in pieces])


def _find_pieces(
    directory: Path, index: FragmentIndex, kind: str, fragment: Fragment, tensor: torch.Tensor
) -> Iterator[tuple[int, _Wanted]]:
    """Yield the rank of each piece that holds a part of `tensor`. Raises UserError if a part is nowhere."""
    found, name, numel = index.parameters.get(fragment.name), fragment.name, 0
    for rank, first, last in found.pieces if found and kind in found.kinds else ():
        covered = min(last, fragment.offset + tensor.numel()) - max(first, fragment.offset)
        if covered > 0:
            numel += covered
            yield rank, _Wanted(key(kind, name, first), first, fragment.offset, tensor)
    if numel != tensor.numel():
        raise UserError(
            f"checkpoint {directory} lacks part of {kind}/{name}; it is of another model, another optimizer, or other "
            "frozen parameters"
        )


def _request(entry: TensorEntry, wanted: _Wanted) -> ReadRequest:
    """Return the request for what the piece holds of the wanted tensor."""
    start = max(wanted.offset, wanted.first)
    stop = min(wanted.offset + wanted.tensor.numel(), wanted.first + entry.numel)
    width = entry.dtype.itemsize
    first, last = entry.start + (start - wanted.first) * width, entry.start + (stop - wanted.first) * width
    return ReadRequest(first, last, entry.dtype, wanted.tensor[start - wanted.offset : stop - wanted.offset])
