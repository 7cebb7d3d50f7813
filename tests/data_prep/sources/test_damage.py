"""Whatever a file holds, reading it gives records or one sentence: no traceback, no hang, and nothing uncounted."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table
from pydantic import TypeAdapter

from configs.base import UserError
from configs.data.sources import Source
from data_prep.cleaning.stage import FILES
from data_prep.sources.document import Document, Entry
from tests.contracts.test_sources import write_warc
from tests.data_prep.corpora import clean_config, cleaned, read_records

ROWS = [{"text": f"The {i}th text, with ümläuts and 漢字 {i * 7919**2}.", "n": i} for i in range(120)]


def json_lines() -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def parquet() -> bytes:
    buffer = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(ROWS), buffer, row_group_size=50)
    return buffer.getvalue()


def csv() -> bytes:
    return b"n,text\n" + b"".join(f'{row["n"]},"{row["text"]}"\n'.encode() for row in ROWS)


def tar(files: Mapping[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (files or {f"{i}.jsonl": json_lines() for i in range(4)}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def paper() -> bytes:
    main = latex().replace(b"\\x{y}", b"\\input{one}\\import{sub/}{two}")
    return tar({"main.tex": main, "one.tex": markdown(), "sub/two.tex": b"two", "more.tex": latex()})


def warc(suffix: str = ".gz") -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"a.warc{suffix}")
        write_warc(
            path, [(f"http://a/{i}", "text/html", b"<p>" + str(row["text"]).encode()) for i, row in enumerate(ROWS)]
        )
        return path.read_bytes()


def markdown() -> bytes:
    return "\n\n".join(f"# Head {row['n']}\n\n{row['text']}\n\n```\ncode\n```" for row in ROWS).encode()


def latex() -> bytes:
    return b"\\documentclass{a}\\newcommand{\\x}[1]{(#1)}\\begin{document}" + markdown() + b"\\x{y}\\end{document}"


def in_two(compress: Callable[[bytes], bytes]) -> bytes:
    lines = json_lines().splitlines(keepends=True)
    return compress(b"".join(lines[:5])) + compress(b"".join(lines[5:]))


FILES_OF_KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "json_lines": ("json_lines", json_lines),
    "json_lines.gz": ("json_lines", lambda: gzip.compress(json_lines())),
    "json_lines.zst": ("json_lines", lambda: zstandard.ZstdCompressor(write_checksum=True).compress(json_lines())),
    "json_lines.xz": ("json_lines", lambda: lzma.compress(json_lines())),
    "json_lines.bz2": ("json_lines", lambda: bz2.compress(json_lines())),
    "json_lines.bz2 of two streams": ("json_lines", lambda: in_two(bz2.compress)),
    "json_lines.xz of two streams": ("json_lines", lambda: in_two(lzma.compress)),
    "json_lines.tar": ("json_lines", tar),
    "json_lines.tar.gz": ("json_lines", lambda: gzip.compress(tar())),
    "json_lines in utf-16": ("json_lines", lambda: json_lines().decode().encode("utf-16")),
    "parquet": ("parquet", parquet),
    "csv": ("csv", csv),
    "plain_text": ("plain_text", markdown),
    "markup": ("markup", markdown),
    "markup as it reads": ("markup", markdown),
    "latex": ("latex", latex),
    "latex in an archive": ("latex", paper),
    "latex.tar.gz": ("latex", lambda: gzip.compress(paper())),
    "warc": ("warc", warc),
    "warc as it is": ("warc", lambda: warc("")),
    "json_lines.tar of two archives": ("json_lines", lambda: tar() + tar()),
}
WHOLE = {name: make() for name, (_, make) in FILES_OF_KINDS.items()}
CHECKED = {"json_lines.gz", "json_lines.zst", "json_lines.xz", "json_lines.bz2", "json_lines.tar.gz", "latex.tar.gz"}
CHECKED |= {"warc"}
"""Files with checksums: none that breaks off, or holds another bit, reads as if it were whole."""


def source_of(name: str, path: Path) -> Any:
    kind = FILES_OF_KINDS[name][0]
    more = {"text": "plain", "format": "markdown"} if name == "markup as it reads" else {}
    more |= {"main_content": False} if kind == "warc" else {}
    fields = {"name": "s", "kind": kind, "paths": [str(path)], **more}
    adapter: TypeAdapter[Any] = TypeAdapter(Source)
    return adapter.validate_python(fields)


def read(name: str, data: bytes) -> list[Entry] | str:
    """Return the records of a file, or the sentence."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file")
        path.write_bytes(data)
        source = source_of(name, path)
        try:
            return read_records(source)
        except UserError as error:
            assert "\n" not in str(error) and "source 's'" in str(error)
            return str(error)


def _texts(records: list[Any]) -> list[str]:
    return [record.text for record in records if isinstance(record, Document)]


@pytest.mark.parametrize("name", FILES_OF_KINDS)
@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_that_breaks_off_is_records_or_a_sentence(name: str, data: st.DataObject) -> None:
    whole = WHOLE[name]
    kept = data.draw(st.integers(0, len(whole) - 1))
    found, expected = read(name, whole[:kept]), read(name, whole)
    assert isinstance(expected, list)
    if name in CHECKED and isinstance(found, list):
        documents = [record for record in found if isinstance(record, Document) and record.text.strip()]
        whole_pages = (
            name == "warc" and _texts(documents) == _texts(expected)[: len(documents)]
        )  # it may break off between two
        assert not documents or whole_pages


@pytest.mark.parametrize("name", FILES_OF_KINDS)
@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_with_other_bits_is_records_or_a_sentence(name: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = read(name, bytes(damaged))
    if name.startswith(("json_lines.zst", "json_lines.xz", "json_lines.bz2")) and isinstance(found, list):
        documents = [record for record in found if isinstance(record, Document)]
        assert not documents or [d.text for d in documents] == [row["text"] for row in ROWS], "it decodes to the same"


@pytest.mark.parametrize("name", FILES_OF_KINDS)
@given(st.binary(max_size=3000))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_records_or_a_sentence(name: str, data: bytes) -> None:
    read(name, data)


@given(
    st.lists(
        st.sampled_from([b'{"text": "a text"}', b'{"text"', b'{"text": ""}', b'{"x": 1}', b"\xff", b"", b"[]"]),
        min_size=1,
    )
)
@settings(max_examples=60, deadline=None)
def test_every_record_of_every_file_is_accounted_for(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name in ("a", "b"):
            data = b"\n".join([*lines, *[b'{"text": "long enough %d"}' % i for i in range(len(lines) + 1)]])
            Path(directory, name).write_bytes(data)
        paths = [str(Path(directory, name)) for name in ("a", "b")]
        source = {"kind": "json_lines", "name": "s", "paths": paths}
        corpus = cleaned(Path(directory, "out"), clean_config(source, max_unreadable=1000, min_characters=8))
        rows = [json.loads(row) for row in Path(directory, "out", FILES).read_text().splitlines()]
    assert [row["file"] for row in rows] == paths
    for row in rows:
        assert row["records"] == sum(bool(line.strip()) for line in lines) + len(lines) + 1
        assert row["records"] == row["unreadable"] + row["dropped"] + row["documents"]
    (count,) = corpus.manifest.counts
    assert sum(row["documents"] + row["dropped"] for row in rows) == count.num_read
    assert sum(row["unreadable"] for row in rows) == len(corpus.manifest.unreadable)
    assert count.num_read == count.num_kept + count.num_held_out + sum(count.dropped.values())
