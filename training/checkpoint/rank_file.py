"""The file of one rank in a checkpoint: safetensors, with a checksum for every block of it.

`rank-00000-of-00002.safetensors` holds tensors `<kind>/<parameter>@<offset>`; beside it `rank-00000-of-00002.json`
has the xxh3-64 of its header and of each `block_bytes` of data after it, and the SHA-256 of the whole. So a reader that
needs a stretch reads and verifies just the blocks that hold it, and an artifact's record takes the file's checksum
without reading it again. torch.distributed.checkpoint was looked at: its metadata is a pickle unless it
writes Hugging Face's layout, and that knows neither checksums nor shards that are no DTensors.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from pydantic import ValidationError

from cluster.host.files import sync, write_text
from cluster.storage.errors import error_class
from configs.base import InfrastructureError, UserError
from configs.text import one_line
from training.records import RankFileSums

BLOCK_BYTES = 4 << 20
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """Where a one-dimensional tensor lies in the data."""

    key: str
    dtype: torch.dtype
    start: int
    """First byte."""

    stop: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return (self.stop - self.start) // self.dtype.itemsize


@dataclass(frozen=True)
class ReadRequest:
    """A range of bytes of a file's data, and the one-dimensional tensor, of as many elements, to read them into."""

    start: int
    stop: int
    dtype: torch.dtype
    """Element type in the file; the tensor may have another."""

    into: torch.Tensor


def layout(sizes: Iterable[tuple[str, torch.dtype, int]]) -> list[TensorEntry]:
    """Lay out tensors (key, dtype, elements) one after another, the widest type first so that each stays aligned."""
    entries, start = [], 0
    for key, dtype, numel in sorted(sizes, key=lambda size: (-size[1].itemsize, size[0])):
        entries.append(TensorEntry(key, dtype, start, start + numel * dtype.itemsize))
        start = entries[-1].stop
    return entries


def file_stem(rank: int, world_size: int) -> str:
    """Return the name of a rank's file, without its suffix."""
    return f"rank-{rank:05d}-of-{world_size:05d}"


def write(prefix: Path, entries: list[TensorEntry], data: torch.Tensor, *, on_progress: Callable[[], None]) -> None:
    """Write `data`, bytes laid out as `entries` say, and then its checksums; both are on disk when this returns.

    `on_progress` is called after each block, so that a watchdog can tell a slow disk from a hang.
    """
    header = _header(entries)
    view = memoryview(data.numpy().data)
    sums, whole = [xxhash.xxh3_64_hexdigest(header)], hashlib.sha256(header)
    path = prefix.with_suffix(".safetensors")
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(header))
        for start in range(0, len(view), BLOCK_BYTES):
            block = view[start : start + BLOCK_BYTES]
            sums.append(xxhash.xxh3_64_hexdigest(block))
            whole.update(block)
            _write_all(file.fileno(), block)
            on_progress()
    sync(path)
    on_progress()
    index = RankFileSums(
        header_bytes=len(header),
        block_bytes=BLOCK_BYTES,
        data_bytes=len(view),
        xxh3_64=tuple(sums),
        sha256=whole.hexdigest(),
    )
    write_text(prefix.with_suffix(".json"), index.model_dump_json())


class RankFile:
    """A rank's file, open for reading. Its methods raise UserError where it is damaged."""

    def __init__(self, prefix: Path) -> None:
        self._path = prefix.with_suffix(".safetensors")
        try:
            self._sums = RankFileSums.model_validate_json(prefix.with_suffix(".json").read_bytes())
            self._file = self._path.open("rb", buffering=0)
            header = self._file.read(self._sums.header_bytes)
        except ValidationError:
            raise self._damaged(f"{prefix.with_suffix('.json').name} is no list of checksums") from None
        except OSError as error:
            name = Path(str(error.filename or self._path)).name
            raise self._refused(name, error) from error
        expected = self._sums.header_bytes + self._sums.data_bytes
        if (size := os.fstat(self._file.fileno()).st_size) != expected:
            raise self._damaged(f"{self._path.name} has {size:,} bytes instead of {expected:,}")
        self._check(header, 0)
        self.entries = _entries(header)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, wanted: Iterable[ReadRequest]) -> None:
        """Fill tensors in one pass over the file; read and verify the blocks that are needed and no others."""
        size = self._sums.block_bytes
        buffer, held = bytearray(size), -1
        for request in sorted(wanted, key=lambda request: request.start):
            for number in range(request.start // size, -(-request.stop // size)):
                if number != held:
                    self._load(number, buffer)
                    held = number
                _copy(buffer, number * size, request)

    def _load(self, number: int, buffer: bytearray) -> None:
        start = number * self._sums.block_bytes
        view = memoryview(buffer)[: min(self._sums.block_bytes, self._sums.data_bytes - start)]
        self._file.seek(self._sums.header_bytes + start)
        got = 0
        while got < len(view):
            try:
                got += self._file.readinto(view[got:]) or self._ended()
            except OSError as error:
                raise self._refused(self._path.name, error) from error
        self._check(view, number + 1)

    def _ended(self) -> int:
        raise self._damaged(f"{self._path.name} ends too early")

    def _check(self, data: bytes | memoryview, number: int) -> None:
        if xxhash.xxh3_64_hexdigest(data) != self._sums.xxh3_64[number]:
            raise self._damaged(f"{self._path.name} has changed since it was written")

    def _refused(self, name: str, error: OSError) -> UserError:
        if error_class(error) is InfrastructureError:
            return unreadable(self._path.parent, error)
        return self._damaged(f"{name}: {error.strerror}")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"checkpoint {self._path.parent} is damaged: {what}")


def unreadable(checkpoint: Path, error: Exception) -> InfrastructureError:
    """Return the sentence for a checkpoint that a file system does not give for now; it may be whole."""
    return InfrastructureError(
        f"checkpoint {checkpoint} cannot be read ({one_line(error)}); run this again once it can"
    )


def _copy(block: bytearray, first: int, request: ReadRequest) -> None:
    """Copy what a block holds of the requested range; its first byte is byte `first` of the data."""
    width = request.dtype.itemsize
    low, high = max(request.start, first), min(request.stop, first + len(block))
    values = torch.frombuffer(block, dtype=request.dtype, count=(high - low) // width, offset=low - first)
    request.into[(low - request.start) // width : (high - request.start) // width].copy_(values)


def _header(entries: list[TensorEntry]) -> bytes:
    """Return the beginning of a safetensors file, padded so that the data is aligned to 64 bytes."""
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


def _entries(header: bytes) -> list[TensorEntry]:
    tensors = json.loads(header[8:])
    return [TensorEntry(key, _TYPES[found["dtype"]], *found["data_offsets"]) for key, found in tensors.items()]


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def key(kind: str, name: str, offset: int) -> str:
    """Return the key of a fragment's tensor."""
    return f"{kind}/{name}@{offset}"


def split_key(key: str) -> tuple[str, str, int]:
    """Kind, parameter and offset of a tensor's key."""
    kind, _, rest = key.partition("/")
    name, _, offset = rest.rpartition("@")
    return kind, name, int(offset)
