"""Tar archives are read member by member, never unpacked, and one that breaks off is not taken for whole."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from configs.base import UserError
from configs.data.sources import JsonLinesSource, PlainTextSource
from data_prep.sources.document import Document
from tests.data_prep.corpora import read_records

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tar(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def plain_text(path: str, **fields: Any) -> PlainTextSource:
    return PlainTextSource(name="notes", kind="plain_text", paths=(path,), **fields)


def texts(source: Any) -> list[tuple[str, str]]:
    return [(record.id, record.text) for record in read_records(source) if isinstance(record, Document)]


FILES = {"one/a.txt": b"first\nsecond\n", "b.txt": "dritte Zeile é".encode(), "empty.txt": b""}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_read_like_files(suffix: str, kind: int) -> None:
    Path("x.data").write_bytes(COMPRESS[suffix](tar(FILES, kind)))
    assert texts(plain_text("x.data", document="line")) == [
        ("notes/x.data/one/a.txt:1", "first"),
        ("notes/x.data/one/a.txt:2", "second"),
        ("notes/x.data/b.txt:1", "dritte Zeile é"),
    ]
    assert [text for _, text in texts(plain_text("x.data", document="file"))] == [*map(bytes.decode, FILES.values())]


def test_members_may_be_compressed_themselves() -> None:
    lines = b"".join(json.dumps({"text": f"line {i}"}).encode() + b"\n" for i in range(300))
    Path("x.tar").write_bytes(tar({"a.jsonl.gz": gzip.compress(lines), "b.jsonl.xz": lzma.compress(lines)}))
    found = texts(JsonLinesSource(name="web", kind="json_lines", paths=("x.tar",)))
    assert [text for _, text in found] == [f"line {i}" for i in range(300)] * 2
    assert found[300][0] == "web/x.tar/b.jsonl.xz:1"


def test_names_that_leave_the_archive_are_names_and_no_paths(tmp_path: Path) -> None:
    Path("x.tar").write_bytes(tar({"../out.txt": b"up", "/etc/abs.txt": b"root"}))
    before = sorted(tmp_path.parent.iterdir())
    assert [text for _, text in texts(plain_text("x.tar"))] == ["up", "root"]
    assert sorted(tmp_path.parent.iterdir()) == before and [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("missing", [0, 1, 512, 1024, 1500, 9000])
def test_an_archive_that_breaks_off_is_an_error(suffix: str, missing: int) -> None:
    """At any place: in a member, between two, and where only the end of the archive is missing."""
    whole = tar({f"{i}.txt": b"x" * 512 * (i + 1) for i in range(8)})
    end = -(-len(whole.rstrip(b"\0")) // 512) * 512
    Path("x.tar").write_bytes(COMPRESS[suffix](whole[: end - missing]))
    with pytest.raises(UserError, match=r"x\.tar is truncated or damaged"):
        read_records(plain_text("x.tar", document="file"))


def test_archives_that_follow_each_other_are_read_as_one() -> None:
    one, two = tar({"a.txt": b"first"}), tar({"b.txt": b"second", "c.txt": b"third"})
    end = -(-len(two.rstrip(b"\0")) // 512) * 512
    Path("x.tar").write_bytes(one + two[:end] + bytes(3 * 512) + one)
    assert [text for _, text in texts(plain_text("x.tar"))] == ["first", "second", "third", "first"]


@pytest.mark.parametrize("place", [0, 1])
def test_what_follows_a_damaged_header_is_not_lost_in_silence(place: int) -> None:
    """Of a member, and after the end of an archive."""
    one = tar({"a.txt": b"first", "b.txt": b"second"})
    damaged = bytearray(one + one)
    damaged[(1024, len(one))[place] + 10] ^= 255
    Path("x.tar").write_bytes(damaged)
    with pytest.raises(UserError, match=r"x\.tar is truncated or damaged"):
        read_records(plain_text("x.tar"))


def test_an_archive_of_unix_v7_is_one() -> None:
    """Its headers have no magic letters, but the same checksum."""
    header = bytearray(tar({"a.txt": b"first\n"})[:512])
    header[257:] = bytes(512 - 257)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    Path("x.tar").write_bytes(bytes(header) + b"first\n".ljust(512, b"\0") + bytes(1024))
    assert texts(plain_text("x.tar")) == [("notes/x.tar/a.txt:1", "first")]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_archives_in_archives_are_read_as_their_files(suffix: str) -> None:
    inner = COMPRESS[suffix](tar({"a.txt": b"first", "sub/b.txt": b"second"}))
    Path("x.tar").write_bytes(tar({"inner.tar": inner, "c.txt": b"third"}))
    assert texts(plain_text("x.tar")) == [
        ("notes/x.tar/inner.tar/a.txt:1", "first"),
        ("notes/x.tar/inner.tar/sub/b.txt:1", "second"),
        ("notes/x.tar/c.txt:1", "third"),
    ]
    nested = tar({"a.txt": b"deep"})
    for _ in range(9):
        nested = tar({"x.tar": nested})
    Path("x.tar").write_bytes(nested)
    with pytest.raises(UserError, match="is an archive in 5 others; unpack it"):
        read_records(plain_text("x.tar"))


def test_members_of_one_name_are_told_apart() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for data in (b"first", b"again"):
            entry = tarfile.TarInfo("a.txt")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    Path("x.tar").write_bytes(buffer.getvalue())
    assert texts(plain_text("x.tar")) == [("notes/x.tar/a.txt:1", "first"), ("notes/x.tar/a.txt#2:1", "again")]


def test_line_ends_of_early_macs_are_line_ends() -> None:
    Path("a.txt").write_bytes(b"one\rtwo\r\rthree")
    assert texts(plain_text("a.txt")) == [("notes/a.txt:1", "one\ntwo"), ("notes/a.txt:4", "three")]
    Path("a.txt").write_bytes(b"one\rtwo\nthree")
    assert [text for _, text in texts(plain_text("a.txt", document="line"))] == ["one\rtwo", "three"]


def test_a_member_of_another_format_is_named() -> None:
    Path("x.tar").write_bytes(tar({"a.txt": b"fine", "b.bin": b"PK\x03\x04" + bytes(600)}))
    with pytest.raises(UserError, match=r"x\.tar/b\.bin is a zip archive"):
        read_records(plain_text("x.tar"))
