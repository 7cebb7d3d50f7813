"""The file of one rank in a checkpoint: safetensors, with a checksum for every stretch of it.

`rank-00000-of-00002.safetensors` holds tensors `<kind>/<parameter>@<offset>`; beside it `rank-00000-of-00002.json`
has the xxh3-64 of its header and of each `block_bytes` of data after it. So a reader that needs a stretch reads and
verifies just the blocks that hold it. torch.distributed.checkpoint was looked at: its metadata is a pickle unless it
writes Hugging Face's layout, and that knows neither checksums nor shards that are no DTensors.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.host.files import sync, write_text
from configs.base import UserError

BLOCK_BYTES = 4 << 20
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


class Checksums(BaseModel):
    """Of one rank's file, by stretches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    header_bytes: int
    block_bytes: int
    data_bytes: int
    xxh3_64: tuple[str, ...]
    """Of the header, then of each block of the data."""


@dataclass(frozen=True)
class Entry:
    """A tensor in the data: one-dimensional."""

    key: str
    dtype: torch.dtype
    start: int
    """First byte."""

    stop: int

    @property
    def numel(self) -> int:
        """Elements."""
        return (self.stop - self.start) // self.dtype.itemsize


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file's data, and the one-dimensional tensor of as many elements that they belong in."""

    start: int
    stop: int
    dtype: torch.dtype
    """In the file; the tensor may have another."""

    into: torch.Tensor


def layout(sizes: Iterable[tuple[str, torch.dtype, int]]) -> list[Entry]:
    """Places for tensors (key, dtype, elements), widest type first so that each stays aligned."""
    entries, start = [], 0
    for key, dtype, numel in sorted(sizes, key=lambda size: (-size[1].itemsize, size[0])):
        entries.append(Entry(key, dtype, start, start + numel * dtype.itemsize))
        start = entries[-1].stop
    return entries


def stem(rank: int, world_size: int) -> str:
    """File name without its ending."""
    return f"rank-{rank:05d}-of-{world_size:05d}"


def write(prefix: Path, entries: list[Entry], data: torch.Tensor, *, on_progress: Callable[[], None]) -> None:
    """Write `data`, bytes laid out as `entries` say, and its checksums; on disk when this returns."""
    header = _header(entries)
    view = memoryview(data.numpy().data)
    sums = [xxhash.xxh3_64_hexdigest(header)]
    path = prefix.with_suffix(".safetensors")
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(header))
        for start in range(0, len(view), BLOCK_BYTES):
            block = view[start : start + BLOCK_BYTES]
            sums.append(xxhash.xxh3_64_hexdigest(block))
            _write_all(file.fileno(), block)
            on_progress()
    sync(path)
    on_progress()
    index = Checksums(header_bytes=len(header), block_bytes=BLOCK_BYTES, data_bytes=len(view), xxh3_64=tuple(sums))
    write_text(prefix.with_suffix(".json"), index.model_dump_json())


class RankFile:
    """A rank's file, open for reading. Raises UserError wherever it is damaged."""

    def __init__(self, prefix: Path) -> None:
        self._path = prefix.with_suffix(".safetensors")
        try:
            self._sums = Checksums.model_validate_json(prefix.with_suffix(".json").read_bytes())
            self._file = self._path.open("rb", buffering=0)
            header = self._file.read(self._sums.header_bytes)
        except ValidationError:
            raise self._damaged(f"{prefix.with_suffix('.json').name} is no list of checksums") from None
        except OSError as error:
            name = Path(str(error.filename or self._path)).name
            raise self._damaged(f"{name}: {error.strerror}") from error
        expected = self._sums.header_bytes + self._sums.data_bytes
        if (size := os.fstat(self._file.fileno()).st_size) != expected:
            raise self._damaged(f"{self._path.name} has {size:,} bytes instead of {expected:,}")
        self._check(header, 0)
        self.entries = _entries(header)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, wanted: Iterable[Stretch]) -> None:
        """Fill tensors. Goes through the file once, front to back; reads the blocks that are needed and no others."""
        size = self._sums.block_bytes
        buffer, held = bytearray(size), -1
        for stretch in sorted(wanted, key=lambda stretch: stretch.start):
            for number in range(stretch.start // size, -(-stretch.stop // size)):
                if number != held:
                    self._load(number, buffer)
                    held = number
                _copy(buffer, number * size, stretch)

    def _load(self, number: int, buffer: bytearray) -> None:
        start = number * self._sums.block_bytes
        view = memoryview(buffer)[: min(self._sums.block_bytes, self._sums.data_bytes - start)]
        self._file.seek(self._sums.header_bytes + start)
        got = 0
        while got < len(view):
            try:
                got += self._file.readinto(view[got:]) or self._ended()
            except OSError as error:
                raise self._damaged(f"{self._path.name}: {error.strerror}") from error
        self._check(view, number + 1)

    def _ended(self) -> int:
        raise self._damaged(f"{self._path.name} ends too early")

    def _check(self, data: bytes | memoryview, number: int) -> None:
        if xxhash.xxh3_64_hexdigest(data) != self._sums.xxh3_64[number]:
            raise self._damaged(f"{self._path.name} has changed since it was written")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"checkpoint {self._path.parent} is damaged: {what}")


def _copy(block: bytearray, first: int, stretch: Stretch) -> None:
    """Copy what a block, whose first byte is number `first` of the data, holds of a stretch."""
    width = stretch.dtype.itemsize
    low, high = max(stretch.start, first), min(stretch.stop, first + len(block))
    values = torch.frombuffer(block, dtype=stretch.dtype, count=(high - low) // width, offset=low - first)
    stretch.into[(low - stretch.start) // width : (high - stretch.start) // width].copy_(values)


def _header(entries: list[Entry]) -> bytes:
    """The beginning of a safetensors file, padded so that the data is aligned to 64 bytes."""
    tensors = {
        entry.key: {
            "dtype": _NAMES[entry.dtype],
            "shape": [entry.numel],
            "data_offsets": [entry.start, entry.stop],
        }
        for entry in entries
    }
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


def _entries(header: bytes) -> list[Entry]:
    tensors = json.loads(header[8:])
    return [Entry(key, _TYPES[found["dtype"]], *found["data_offsets"]) for key, found in tensors.items()]


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def key(kind: str, name: str, offset: int) -> str:
    """The key of a fragment's tensor."""
    return f"{kind}/{name}@{offset}"


def split_key(key: str) -> tuple[str, str, int]:
    """Kind, parameter and offset of a tensor's key."""
    kind, _, rest = key.partition("/")
    name, _, offset = rest.rpartition("@")
    return kind, name, int(offset)
