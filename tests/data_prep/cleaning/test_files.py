"""Cleaning: every record is accounted for by its file, and a file, or a member of an archive, is never lost unsaid."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from configs.base import UserError
from configs.data.sources import JsonLinesSource, PlainTextSource
from data_prep.cleaning.scan import Part, scan_part
from data_prep.sources.table import READERS
from tests.data_prep.corpora import clean_config, cleaned, sentences, source

GOOD = "".join(json.dumps({"text": text}) + "\n" for text in sentences(20)).encode()
BAD = b'{"content": "under another key"}\n' * 3


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_tar(name: str, files: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in files.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    Path(name).write_bytes(zstandard.ZstdCompressor().compress(buffer.getvalue()))


def rows(**changes: Any) -> dict[str, tuple[int, int, int, int]]:
    """Clean, and return the counts of files.jsonl by file: records, unreadable, dropped, documents."""
    cleaned(Path("out"), clean_config(changes.pop("source"), **changes))
    found = [orjson.loads(line) for line in Path("out/files.jsonl").read_bytes().splitlines()]
    assert len({row["file"] for row in found}) == len(found)
    return {row["file"]: (row["records"], row["unreadable"], row["dropped"], row["documents"]) for row in found}


def test_members_of_an_archive_are_accounted_for_one_by_one() -> None:
    bad = GOOD + b'{"text": 7}\n{"text": "x"}\n'
    write_tar("x.tar.zst", {"one/a.jsonl": GOOD, "b.jsonl": bad, "empty.jsonl": b"", "one/blank.jsonl": b"\n\n"})
    Path("plain.jsonl").write_bytes(GOOD)
    Path("none.jsonl").write_bytes(b"")
    web = source("web", "x.tar.zst", "plain.jsonl", "none.jsonl") | {"language_field": None}
    assert rows(source=web, max_unreadable=9) == {
        "none.jsonl": (0, 0, 0, 0),
        "plain.jsonl": (20, 0, 0, 20),
        "x.tar.zst/b.jsonl": (22, 1, 1, 20),
        "x.tar.zst/empty.jsonl": (0, 0, 0, 0),
        "x.tar.zst/one/a.jsonl": (20, 0, 0, 20),
        "x.tar.zst/one/blank.jsonl": (0, 0, 0, 0),
    }


def test_files_without_a_record_are_said(tmp_path: Path) -> None:
    write_tar("x.tar.zst", {"a.jsonl": GOOD, "empty.jsonl": b""})
    Path("none.jsonl").write_bytes(b"")
    web = source("web", "x.tar.zst", "none.jsonl") | {"language_field": None}
    corpus = cleaned(tmp_path / "out", clean_config(web))
    assert corpus.manifest.num_empty_files == 2
    assert "2 files without a record" in corpus.manifest.summary()


@pytest.mark.parametrize("last", [True, False])
def test_a_member_that_cannot_be_read_is_refused_among_others_that_can(last: bool) -> None:
    files = {"a.jsonl": GOOD, "b.jsonl": BAD} | ({} if last else {"c.jsonl": GOOD})
    write_tar("x.tar.zst", files)
    web = source("web", "x.tar.zst") | {"language_field": None}
    with pytest.raises(UserError, match=r"3 of the 3 records of x\.tar\.zst/b\.jsonl cannot be read") as caught:
        rows(source=web, max_unreadable=100)
    assert "x.tar.zst/b.jsonl:3 (missing_field: no 'text' among its fields, content" in str(caught.value)


def test_a_member_is_counted_whole_also_if_the_part_was_interrupted_in_it() -> None:
    """Its first piece has its good records, what is read after the restart has the others."""
    few = b"".join(GOOD.splitlines(keepends=True)[:4])
    write_tar("x.tar.zst", {"a.jsonl": GOOD, "b.jsonl": few + BAD[: len(BAD) // 3] * 3})
    config = clean_config(source("web", "x.tar.zst") | {"language_field": None}, max_unreadable=9)
    spans = READERS["json_lines"].spans(config.sources[0])
    part = Part(0, config.sources[0], spans, config, Path("parts"), 30)
    pieces = scan_part(part)
    assert len(pieces) > 3
    for number in range(1, len(pieces)):
        for path in sorted(Path("parts").glob("*.json"))[number:]:
            path.unlink()
        again = scan_part(part)
        assert sum((piece.num_records for piece in again), Counter()) == {
            "x.tar.zst/a.jsonl": 20,
            "x.tar.zst/b.jsonl": 7,
        }
        assert sum((piece.num_unreadable for piece in again), Counter()) == {"x.tar.zst/b.jsonl": 3}


def notes(**fields: Any) -> dict[str, Any]:
    return {"kind": "plain_text", "name": "notes", "paths": ["*.txt"], "document": "file"} | fields


def test_documents_that_are_files_are_tolerated_like_records() -> None:
    for i, text in enumerate(sentences(6)):
        Path(f"{i}.txt").write_bytes(b"\xff\xfa" if i == 2 else text.encode())
    found = rows(source=notes(), max_unreadable=1)
    assert found["2.txt"] == (1, 1, 0, 0) and found["3.txt"] == (1, 0, 0, 1)
    with pytest.raises(UserError, match=r"max_unreadable is 0"):
        rows(source=notes(), max_unreadable=0)


def test_of_documents_that_are_files_most_must_be_readable() -> None:
    for i, text in enumerate(sentences(6)):
        Path(f"{i}.txt").write_bytes(b"\xff\xfa" if i < 4 else text.encode())
    with pytest.raises(UserError, match=r"4 of the 6 records of all its files cannot be read, such as 0\.txt:1"):
        rows(source=notes(), max_unreadable=10)


def test_an_example_of_what_is_unreadable_is_of_that_file() -> None:
    """Both files are read in one part, and the second is mostly unreadable as a whole alone."""
    Path("a.jsonl").write_bytes(GOOD + b"{\n")
    Path("b.jsonl").write_bytes(BAD)
    with pytest.raises(UserError, match=r"of b\.jsonl cannot be read, such as b\.jsonl:3"):
        rows(source=source("web", "*.jsonl") | {"language_field": None}, max_unreadable=10)


@pytest.mark.parametrize("beginning", [b"PAR1\0\0", b"PK\x03\x04\0\0", bytes(600), "\ufefftext".encode("utf-32")])
def test_a_file_that_is_cut_is_known_by_its_beginning_too(beginning: bytes) -> None:
    Path("big.jsonl").write_bytes(beginning + b"\x15\xffx" * (7 << 20))
    web = source("web", "big.jsonl")
    with pytest.raises(UserError, match=r"big\.jsonl is (Parquet|a zip|zeros|UTF-32)"):
        rows(source=web, max_unreadable=10**9)


def test_a_file_that_is_a_document_is_never_cut() -> None:
    one = PlainTextSource(name="n", kind="plain_text", paths=("a",), document="file")
    assert READERS["plain_text"].is_file_a_document(one)
    assert not READERS["plain_text"].is_file_a_document(one.model_copy(update={"document": "line"}))
    lines = JsonLinesSource(name="n", kind="json_lines", paths=("a",))
    assert not READERS["json_lines"].is_file_a_document(lines)
