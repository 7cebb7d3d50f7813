"""Clean documents on disk."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from pydantic import JsonValue

from data_prep.cleaning.document_files import read_documents, write_documents
from data_prep.sources.document import Document
from data_prep.tokenizer.certificate_texts import ADVERSARIAL

ODD = (*ADVERSARIAL, "line\u2028paragraph\u2029next\u0085form\x0cfeed\x1cfile\r\nwindows\rmac", "\U0010ffff\x00\\\"'")


def documents() -> list[Document]:
    metadata: dict[str, JsonValue] = {"list": [1, 2.5, None], "nested": {"\u2028": True}}
    return [Document(f"web/{i}\u2028", text, "und", "web", metadata if i % 2 else {}) for i, text in enumerate(ODD)]


def test_documents_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl.zst"
    assert write_documents(path, iter(documents())) == len(ODD)
    assert list(read_documents(path)) == documents()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_one_json_object_a_line(tmp_path: Path) -> None:
    write_documents(tmp_path / "a", documents())
    with zstandard.ZstdDecompressor().stream_reader((tmp_path / "a").read_bytes()) as stream:
        lines = stream.read().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["text"] for line in lines] == list(ODD)


def test_no_documents_make_an_empty_file(tmp_path: Path) -> None:
    assert write_documents(tmp_path / "a", []) == 0
    assert list(read_documents(tmp_path / "a")) == []


def test_large_documents_survive(tmp_path: Path) -> None:
    large = Document("web/1", "ក" * 2_000_000, "km", "web")
    write_documents(tmp_path / "a", [large, large])
    assert list(read_documents(tmp_path / "a")) == [large, large]


def test_equal_documents_make_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_documents(tmp_path / name, documents())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Document]:
        yield from documents()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_documents(tmp_path / "a", failing())
    assert list(tmp_path.iterdir()) == []
