"""Token shards, byte for byte as Megatron-LM lays them out."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.tokens.megatron_shards import dtype_for, open_tokens, write_shard

DOCUMENTS = [[5, 6, 7, 1], [1], list(range(300)), [65_498, 0]]
HEADER_BYTES = 9 + 8 + 1 + 8 + 8


def megatron(prefix: Path) -> tuple[list[list[int]], dict[str, Any]]:
    """Return the documents and the index, read by the byte layout of Megatron-LM's indexed_dataset.py alone."""
    raw, data = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, num_sequences, num_bounds = struct.unpack("<QBQQ", raw[9:HEADER_BYTES])
    size, name = {8: (2, "<u2"), 4: (4, "<i4")}[code]
    at = HEADER_BYTES
    lengths = struct.unpack_from(f"<{num_sequences}i", raw, at)
    pointers = struct.unpack_from(f"<{num_sequences}q", raw, at + 4 * num_sequences)
    bounds = struct.unpack_from(f"<{num_bounds}q", raw, at + 12 * num_sequences)
    assert len(raw) == at + 12 * num_sequences + 8 * num_bounds
    assert len(data) == size * sum(lengths)
    documents = [
        np.frombuffer(data, dtype=name, count=length, offset=pointer).tolist()
        for length, pointer in zip(lengths, pointers, strict=True)
    ]
    return documents, {"version": version, "code": code, "bounds": list(bounds)}


@pytest.mark.parametrize(
    ("vocab_size", "code", "bytes_a_token"), [(300, 8, 2), (65_499, 8, 2), (65_500, 4, 4), (10**6, 4, 4)]
)
def test_shard_is_what_megatron_reads(tmp_path: Path, vocab_size: int, code: int, bytes_a_token: int) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, dtype_for(vocab_size))
    documents, index = megatron(tmp_path / "s")
    assert documents == DOCUMENTS
    assert index == {"version": 1, "code": code, "bounds": [0, 1, 2, 3, 4]}
    assert (tmp_path / "s.bin").stat().st_size == bytes_a_token * sum(map(len, DOCUMENTS))


def test_ids_above_16_bits_survive(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", [[65_535, 65_536], [999_999]], dtype_for(10**6))
    assert megatron(tmp_path / "s")[0] == [[65_535, 65_536], [999_999]]
    assert open_tokens(tmp_path / "s").tolist() == [65_535, 65_536, 999_999]


def test_an_id_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write_shard(tmp_path / "s", [[70_000]], dtype_for(300))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_tokens_read_back_end_to_end(tmp_path: Path, vocab_size: int) -> None:
    write_shard(tmp_path / "with.dots-1", DOCUMENTS, dtype_for(vocab_size))
    tokens = open_tokens(tmp_path / "with.dots-1")
    assert tokens.tolist() == [token for document in DOCUMENTS for token in document]
    assert tokens.dtype == dtype_for(vocab_size)


def test_an_empty_shard_reads_back_as_nothing(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", [], dtype_for(300))
    assert megatron(tmp_path / "s") == ([], {"version": 1, "code": 8, "bounds": [0]})
    assert open_tokens(tmp_path / "s").tolist() == []


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    match kind:
        case "empty":
            data.clear()
        case "cut":
            del data[-1]
        case "cut in the header":
            del data[20:]
        case "cut in the lengths":
            del data[HEADER_BYTES + 6 :]
        case "longer":
            data += b"\0"
        case "magic":
            data[0] ^= 1
        case "version":
            data[9] = 2
        case "dtype":
            data[17] = 77
        case "count":
            data[18 + 7] = 0x7F
        case "length":
            data[HEADER_BYTES] += 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "cut",
        "cut in the header",
        "cut in the lengths",
        "longer",
        "magic",
        "version",
        "dtype",
        "count",
        "length",
    ],
)
def test_a_damaged_index_is_an_error(tmp_path: Path, kind: str) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, dtype_for(300))
    damage(tmp_path / "s.idx", kind)
    with pytest.raises(ValueError, match=r"/s\.(idx|bin) "):
        open_tokens(tmp_path / "s")


@pytest.mark.parametrize("kind", ["empty", "cut", "longer"])
def test_a_damaged_payload_is_an_error(tmp_path: Path, kind: str) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, dtype_for(300))
    damage(tmp_path / "s.bin", kind)
    with pytest.raises(ValueError, match=r"/s\.bin has"):
        open_tokens(tmp_path / "s")
