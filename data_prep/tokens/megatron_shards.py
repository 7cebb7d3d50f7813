"""Token shards: Megatron's .bin/.idx pair, so that Megatron-LM, GPT-NeoX and NeMo read them as they are.

`.bin` holds the ids end to end, little-endian. `.idx`, after Megatron-LM's indexed_dataset.py: the magic, version 1
(uint64), a code for the dtype (uint8), the number of sequences and of document bounds (uint64 each), then sequence
lengths (int32), byte offsets (int64), and the bounds of documents as sequence numbers (int64). Here a sequence is
a document.
"""

import os
import struct
from collections.abc import Iterable
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.host.files import whole_file

MAGIC = b"MMIDIDX\x00\x00"
DTYPE_CODES: dict[np.dtype[np.integer], int] = {np.dtype("<u2"): 8, np.dtype("<i4"): 4}
_HEADER = struct.Struct("<9sQBQQ")
UINT16_LIMIT = 65_500
"""Megatron-LM stores ids as uint16 below this vocabulary size."""


def dtype_for(vocab_size: int) -> np.dtype[np.integer]:
    """Return the dtype of ids: two bytes where Megatron-LM uses two, else four."""
    return np.dtype("<u2") if vocab_size < UINT16_LIMIT else np.dtype("<i4")


def write_shard(
    prefix: Path, documents: Iterable[list[int] | npt.NDArray[np.integer]], dtype: np.dtype[np.integer]
) -> None:
    """Write `<prefix>.bin`, then `<prefix>.idx`, each atomically."""
    lengths: list[int] = []
    with whole_file(_with(prefix, ".bin")) as partial, partial.open("wb") as file:
        for ids in documents:
            file.write(np.asarray(ids, dtype=dtype).tobytes())
            lengths.append(len(ids))
    sizes = np.asarray(lengths, dtype="<i4")
    offsets = np.zeros(len(sizes), dtype="<i8")
    np.cumsum(sizes[:-1] * np.int64(dtype.itemsize), out=offsets[1:])
    with whole_file(_with(prefix, ".idx")) as partial, partial.open("wb") as file:
        file.write(_HEADER.pack(MAGIC, 1, DTYPE_CODES[dtype], len(sizes), len(sizes) + 1))
        file.write(sizes.tobytes() + offsets.tobytes() + np.arange(len(sizes) + 1, dtype="<i8").tobytes())


def open_tokens(prefix: Path) -> npt.NDArray[np.integer]:
    """Return all ids of a shard, (num_tokens,), mapped from disk. Raises ValueError if the pair is damaged."""
    dtype, lengths = _read_index(prefix)
    num_tokens = int(lengths.sum(dtype=np.int64))
    path = _with(prefix, ".bin")
    if num_tokens == 0 and path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)  # an empty file cannot be mapped
    return np.frombuffer(map_tokens(path, num_tokens, dtype), dtype=dtype)


def map_tokens(path: Path, num_tokens: int, dtype: np.dtype[np.integer]) -> mmap:
    """Map the ids, at least one, of a `.bin` file. Raises ValueError if it has more or fewer bytes than they take."""
    num_bytes = num_tokens * dtype.itemsize
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size != num_bytes:
            raise ValueError(f"{path} has {size} bytes, not the {num_bytes} of the {num_tokens} tokens")
        return mmap(file.fileno(), num_bytes, access=ACCESS_READ)


def document_lengths(prefix: Path) -> npt.NDArray[np.int64]:
    """Return the number of ids of each document of a shard, in order. Raises ValueError if the index is damaged."""
    return _read_index(prefix)[1].astype(np.int64)


def _read_index(prefix: Path) -> tuple[np.dtype[np.integer], npt.NDArray[np.int32]]:
    """Return the dtype of the ids, and the number of ids of each document."""
    path = _with(prefix, ".idx")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise ValueError(f"{path} is not a Megatron index")
        _, version, code, num_sequences, num_bounds = _HEADER.unpack(header)
        dtypes = [dtype for dtype, known in DTYPE_CODES.items() if known == code]
        if version != 1 or not dtypes:
            raise ValueError(f"{path} has version {version} and dtype code {code}, which are none of ours")
        if size != _HEADER.size + 12 * num_sequences + 8 * num_bounds:
            raise ValueError(f"{path} has {size} bytes, which its header does not account for")
        return dtypes[0], np.frombuffer(file.read(4 * num_sequences), dtype="<i4")


def _with(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)
