"""Sources read good files as they are, note bad records, and explain bad files."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from configs.base import UserError
from configs.data.sources import (
    DocstringsSource,
    HuggingFaceSource,
    JsonLinesSource,
    PackageTextSource,
    ParquetSource,
    PlainTextSource,
    Source,
)
from data_prep.sources.document import Document, Unreadable, settle
from data_prep.sources.table import READERS
from tests.data_prep.corpora import read_records, read_span


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def digest(path: Path) -> str:
    return f"digest of {path.name}"


def error_of(source: Source) -> str:
    with pytest.raises(UserError) as caught:
        READERS[source.kind].identity(source, digest)
        read_records(source)
    assert "\n" not in str(caught.value)
    assert f"source '{source.name}'" in str(caught.value)
    return str(caught.value)


def summary(records: Iterable[Document | Unreadable]) -> list[tuple[str, str]]:
    return [(r.id, r.text) if isinstance(r, Document) else (r.where, r.reason) for r in records]


def json_lines(*paths: str, **fields: Any) -> JsonLinesSource:
    return JsonLinesSource(name="web", kind="json_lines", paths=paths, **fields)


def plain_text(*paths: str, **fields: Any) -> PlainTextSource:
    return PlainTextSource(name="notes", kind="plain_text", paths=paths, **fields)


def parquet(*paths: str, **fields: Any) -> ParquetSource:
    return ParquetSource(name="table", kind="parquet", paths=paths, **fields)


def hugging_face(path: str, **fields: Any) -> HuggingFaceSource:
    return HuggingFaceSource(name="hub", kind="hugging_face", path=path, **fields)


def package_text(path: str, **fields: Any) -> PackageTextSource:
    return PackageTextSource(name="lines", **{"kind": "package_text", "package": "toy", **fields}, path=path)


def docstrings(*packages: str) -> DocstringsSource:
    return DocstringsSource(name="science", kind="docstrings", packages=packages)


def write_package(files: dict[str, str | bytes]) -> None:
    for name, content in {"__init__.py": "raise ImportError('imported')\n", **files}.items():
        path = Path("toy", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def zst(*frames: bytes) -> bytes:
    return b"".join(zstandard.ZstdCompressor().compress(frame) for frame in frames)


def many_lines(number: int = 20_000) -> bytes:
    return b"".join(b'{"text": "%d"}\n' % (i * 7919**3) for i in range(number))


# Files and patterns


def test_paths_are_sorted_deduplicated_and_absolute(here: Path) -> None:
    Path("data").mkdir()
    for name in ("b", "a", "c[1]"):
        Path("data", f"{name}.txt").write_text(name)
    parts = READERS["plain_text"].spans(
        plain_text("data/*.txt", "data/c[1].txt", "./data/a.txt", str(here / "data/b.txt"))
    )
    assert [Path(span.name) for span in parts] == [here / "data" / name for name in ("a.txt", "b.txt", "c[1].txt")]
    assert all(Path(span.name).is_absolute() and span.num_bytes == Path(span.name).stat().st_size for span in parts)


def test_ids_hold_the_path_as_the_pattern_matched_it(here: Path) -> None:
    Path("a.txt").write_text("x")
    assert summary(read_records(plain_text("*.txt"))) == [("notes/a.txt:1", "x")]
    assert summary(read_records(plain_text(f"{here}/*.txt"))) == [(f"notes/{here}/a.txt:1", "x")]
    Path("sub").mkdir()
    assert summary(read_records(plain_text("sub/../a.txt"))) == [("notes/sub/../a.txt:1", "x")]


def test_identity_of_files_maps_names_to_digests() -> None:
    Path("b.txt").touch()
    Path("a.txt").touch()
    assert READERS["plain_text"].identity(plain_text("*.txt"), digest) == {
        "a.txt": "digest of a.txt",
        "b.txt": "digest of b.txt",
    }


@pytest.mark.parametrize(
    ("pattern", "says"), [("none/*.txt", "none/*.txt"), ("gone.txt", "gone.txt"), (".", "directory")]
)
def test_pattern_without_files_is_an_error(pattern: str, says: str) -> None:
    assert says in error_of(plain_text(pattern))


def test_dangling_link_is_an_error() -> None:
    Path("link.txt").symlink_to("nowhere.txt")
    assert "link.txt" in error_of(plain_text("*.txt"))


def test_file_name_outside_utf8_is_an_error(here: Path) -> None:
    try:
        open(bytes(here) + b"/\xff.txt", "w").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "rename" in error_of(plain_text("*.txt"))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_file_that_does_not_open_is_one_sentence(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise error

    Path("a.jsonl").write_text("{}")
    source = json_lines("a.jsonl")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=rf"source 'web': a.jsonl cannot be read \({error.strerror}\)"):
        read_records(source)
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read"):
        READERS["json_lines"].identity(source, refuse)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".GZ"])
def test_compressed_files_read_like_plain_ones(suffix: str) -> None:
    compress: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst}
    Path(f"a.jsonl{suffix}").write_bytes(compress[suffix.lower()](many_lines()))
    records = read_records(json_lines(f"a.jsonl{suffix}"))
    assert [r.text for r in records if isinstance(r, Document)] == [str(i * 7919**3) for i in range(20_000)]


def test_several_members_and_frames_are_one_file() -> None:
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    Path("a.txt.gz").write_bytes(gzip.compress(b"one\nt") + gzip.compress(b"wo\n"))
    Path("b.txt.zst").write_bytes(skippable + zst(b"one\nt", b"", b"wo\n"))
    texts = [text for _, text in summary(read_records(plain_text("*.txt.*", document="line")))]
    assert texts == ["one", "two", "one", "two"]


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("compress", [gzip.compress, zst])
def test_truncated_file_is_an_error_after_its_good_lines(compress: Callable[[bytes], bytes], kept: float) -> None:
    data, suffix = compress(many_lines()), ".gz" if compress is gzip.compress else ".zst"
    Path(f"a.jsonl{suffix}").write_bytes(data[: int(len(data) * kept)])
    message = error_of(json_lines(f"a.jsonl{suffix}"))
    assert f"a.jsonl{suffix} is truncated or damaged after line " in message
    assert kept != 0.5 or "after line 0;" not in message
    assert "truncated or damaged" in error_of(plain_text(f"a.jsonl{suffix}", document="file"))


def test_zst_cut_between_frames_and_inside_the_second_differ() -> None:
    first, second = zst(b"one\n"), zst(b"two\n")
    Path("whole.zst").write_bytes(first)
    Path("cut.zst").write_bytes(first + second[:-1])
    assert len(read_records(plain_text("whole.zst", document="line"))) == 1
    assert "cut.zst is truncated or damaged" in error_of(plain_text("cut.zst", document="line"))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[40:], lambda data: data[:50] + b"\0" * 9 + data[59:]])
def test_corrupt_file_is_an_error(suffix: str, damage: Callable[[bytes], bytes]) -> None:
    compress = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    Path(f"a.jsonl{suffix}").write_bytes(damage(compress(many_lines())))
    assert "truncated or damaged" in error_of(json_lines(f"a.jsonl{suffix}"))


def utf_16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")  # with a byte-order mark


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zstd", "a.jsonl.gz", "a.txt"])
@pytest.mark.parametrize("compress", [gzip.compress, zst, lzma.compress, bz2.compress, bytes, utf_16])
def test_compression_and_encoding_are_known_by_the_content(compress: Callable[[bytes], bytes], name: str) -> None:
    Path(name).write_bytes(compress(many_lines(500)))
    assert [text for _, text in summary(read_records(json_lines(name)))] == [str(i * 7919**3) for i in range(500)]


@pytest.mark.parametrize("compress", [lzma.compress, bz2.compress])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.9999])
def test_truncated_archives_of_each_kind_are_errors(compress: Callable[[bytes], bytes], kept: float) -> None:
    data = compress(many_lines())
    Path("a.jsonl").write_bytes(data[: max(12, int(len(data) * kept))])
    assert "a.jsonl is truncated or damaged after line " in error_of(json_lines("a.jsonl"))


@pytest.mark.parametrize("compress", [gzip.compress, zst, lzma.compress, bz2.compress])
def test_streams_are_read_one_after_another(compress: Callable[[bytes], bytes]) -> None:
    Path("a.jsonl").write_bytes(compress(many_lines(400)) * 3)
    assert len(read_records(json_lines("a.jsonl"))) == 1200


@pytest.mark.parametrize("compress", [lzma.compress, bz2.compress])
def test_streams_may_be_padded_with_zeros(compress: Callable[[bytes], bytes]) -> None:
    Path("a.jsonl").write_bytes((compress(many_lines(400)) + bytes(1 << 20)) * 2)
    assert len(read_records(json_lines("a.jsonl"))) == 800


@pytest.mark.parametrize("compress", [gzip.compress, zst, lzma.compress, bz2.compress])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bit_of_the_head_of_a_later_stream_is_damage(compress: Callable[[bytes], bytes], place: int) -> None:
    first = compress(many_lines(400))
    data = bytearray(first * 2)
    data[len(first) + place] ^= 4
    Path("a.jsonl").write_bytes(data)
    assert "a.jsonl is truncated or damaged after line " in error_of(json_lines("a.jsonl"))


def zip_archive(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", data)
    return buffer.getvalue()


def parquet_file(data: bytes) -> bytes:
    buffer = io.BytesIO()
    write_table(pyarrow.table({"text": [data.decode()]}), buffer)
    return buffer.getvalue()


OTHER_FORMATS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "parquet": (parquet_file, "is Parquet, which kind: parquet reads"),
    "parquet in gzip": (lambda data: gzip.compress(parquet_file(data)), "is Parquet"),
    "zip": (zip_archive, "is a zip archive"),
    "twice": (lambda data: gzip.compress(gzip.compress(data)), "compressed by gzip a second time"),
    "utf-16 without mark": (lambda data: data.decode().encode("utf-16-le"), "UTF-16 without a byte-order mark"),
    "russian utf-16": (lambda data: ("Все люди рождаются\n" * 9).encode("utf-16-be"), "UTF-16 without a byte-order"),
    "hindi utf-16": (lambda data: ("सभी मनुष्यों को\n" * 9).encode("utf-16-le"), "UTF-16 without a byte-order"),
    "utf-32": (lambda data: data.decode().encode("utf-32"), "is UTF-32"),
    "zeros": (lambda data: bytes(len(data)), "is zeros"),
    "array": (lambda data: b"[" + b",".join(data.splitlines()) + b"]", "is a JSON array"),
    "array on lines": (lambda data: json.dumps([1, 2], indent=1).encode(), "is a JSON array"),
    "object on lines": (lambda data: json.dumps({"text": "x"}, indent=1).encode(), "one JSON object on several lines"),
}


@pytest.mark.parametrize("made", OTHER_FORMATS)
def test_a_file_of_another_format_is_named(made: str) -> None:
    """It is never a handful of unreadable records."""
    make, says = OTHER_FORMATS[made]
    Path("a.jsonl").write_bytes(make(many_lines(3)))
    message = error_of(json_lines("a.jsonl"))
    assert "a.jsonl is" in message and says in message


@pytest.mark.parametrize(
    "text", ["PAR1 is a word", "ORCs and BZh9 and %PDF", "7z", "Obj\nect", "BZh91AY is no archive"]
)
def test_a_text_that_begins_like_a_format_is_text(text: str) -> None:
    Path("a.txt").write_text(text)
    assert summary(read_records(plain_text("a.txt", document="file"))) == [("notes/a.txt:1", text)]


# Ranges of a file


def cut_and_read(source: Source, num_bytes: int) -> list[Document | Unreadable]:
    """Read each file in ranges of about `num_bytes`."""
    reader = READERS[source.kind]
    assert reader.split is not None
    records = []
    for span in reader.spans(source):
        spans = reader.split(source, span, num_bytes)
        if reader.cut is not None and not spans[0].is_whole:
            spans = settle(spans, [reader.cut(source, one) for one in spans])
        records += [record for one in spans for record in read_span(source, one)]
    return records


LINES = b"\xef\xbb\xbfone\n\ntwo\r\n\r\n \t\nthree\nfour\n\n\n\nfive" + b"x" * 50 + b"\nsix\n\nseven\n"


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"last"])
@pytest.mark.parametrize("document", ["line", "paragraph"])
def test_ranges_of_a_text_give_what_the_whole_gives(document: str, end: bytes) -> None:
    """Cut at every place: each line is read once, under its number."""
    Path("a.txt").write_bytes(LINES + end)
    source = plain_text("a.txt", document=document)
    whole = read_records(source)
    assert len(whole) > 4
    for num_bytes in range(1, len(LINES) + 4):
        assert cut_and_read(source, num_bytes) == whole


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"a", b'{"text": "b"}\n', "é".encode()])), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_ranges_of_any_file_give_what_the_whole_gives(pieces: list[bytes], num_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a")
        path.write_bytes(b"".join(pieces))
        for source in (json_lines(str(path)), *(plain_text(str(path), document=d) for d in ("line", "paragraph"))):
            assert cut_and_read(source, num_bytes) == read_records(source)


def test_what_is_compressed_is_one_range() -> None:
    Path("a.jsonl").write_bytes(gzip.compress(many_lines()))
    (span,) = READERS["json_lines"].spans(json_lines("a.jsonl"))
    split = READERS["json_lines"].split
    assert split is not None and split(json_lines("a.jsonl"), span, 1000) == (span,)


def test_row_groups_are_ranges_of_parquet() -> None:
    table = pyarrow.table({"text": [str(i * 7919**3) for i in range(3000)]})
    write_table(table, "a.parquet", row_group_size=450)
    source = parquet("a.parquet")
    (span,) = READERS["parquet"].spans(source)
    split = READERS["parquet"].split
    assert split is not None and [one.first for one in split(source, span, 1000)] == [1 + 450 * i for i in range(7)]
    for num_bytes in (1, 10_000, 25_000):
        assert cut_and_read(source, num_bytes) == read_records(source)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_a_dataset_is_cut_into_files_or_rows(streaming: bool, saved: bool) -> None:
    rows = {"text": [f"{i}" for i in range(40)]}
    if saved:
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk("data")
    else:
        Path("data").mkdir()
        for i in range(4):
            lines = [json.dumps({"text": text}) for text in rows["text"][i * 10 : i * 10 + 10]]
            Path("data", f"train-{i}.jsonl").write_text("\n".join(lines))
    source = hugging_face("data", streaming=streaming)
    (span,) = READERS["hugging_face"].spans(source)
    split = READERS["hugging_face"].split
    assert split is not None and len(split(source, span, 50)) >= 4
    records = cut_and_read(source, 50)
    assert [record.text for record in records if isinstance(record, Document)] == rows["text"]
    assert len({record.id for record in records if isinstance(record, Document)}) == 40
    if saved or not streaming:
        assert records == read_records(source)


# JSON lines


def test_json_lines_give_text_and_place() -> None:
    Path("a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n  \t\n{"text": "\\u2028 two", "x": 1}')
    assert summary(read_records(json_lines("a.jsonl"))) == [("web/a.jsonl:1", "one"), ("web/a.jsonl:4", "\u2028 two")]


def test_json_lines_of_an_empty_file_are_none() -> None:
    Path("a.jsonl").touch()
    assert read_records(json_lines("a.jsonl")) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "\xff"}', "invalid_utf8"),
        (b'{"text": "\\ud800"}', "invalid_utf8"),
        (b'{"text": "x", "id": "\\udfff"}', "invalid_utf8"),
        (b'{"text": "x", "more": ["\\ud800"]}', "invalid_utf8"),
        (b'{"text": "x"', "invalid_json"),
        (b'["text"]', "invalid_json"),
        (b'"a string, which is no reason"', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"text": "x", "id": %s}' % (b"9" * 5000), "invalid_json"),
        (b"{}", "missing_field"),
        (b'{"text": "x", "id": null}', "missing_field"),
        (b'{"text": null}', "not_text"),
        (b'{"text": ["x"]}', "not_text"),
        (b'{"text": "x", "id": ""}', "bad_id"),
        (b'{"text": "x", "id": true}', "bad_id"),
        (b'{"text": "x", "lang": 7}', "bad_language"),
        (b'{"text": "x", "lang": "e n"}', "bad_language"),
        (b'{"text": "x", "lang": "en\\n"}', "bad_language"),
        (b'{"text": "x", "lang": "%s"}' % (b"x" * 36), "bad_language"),
    ],
)
def test_bad_json_line_is_noted_and_the_next_is_read(line: bytes, reason: str) -> None:
    line = line.replace(b"{", b'{"id": 5, ', 1) if line.startswith(b"{") and b'"id"' not in line else line
    line = line.replace(b'"id": 5, }', b'"id": 5}')
    Path("a.jsonl").write_bytes(line + b'\n{"text": "next", "id": "n"}\n')
    records = read_records(json_lines("a.jsonl", id_field="id", language_field="lang", metadata_fields=("more",)))
    assert summary(records) == [("a.jsonl:1", reason), ("web/n", "next")]


def test_json_fields_give_id_language_and_metadata() -> None:
    rows = [
        {"body": "a", "id": 0, "lang": "swh_Latn", "url": "u", "deep": {"x": [1, None]}},
        {"body": "b", "id": "k", "lang": "", "score": float("nan")},
        {"body": "c", "id": "l", "lang": None, "other": 1},
    ]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = json_lines(
        "a.jsonl",
        text_field="body",
        id_field="id",
        language_field="lang",
        language="en",
        metadata_fields=("url", "deep", "score"),
    )
    assert read_records(source) == [
        Document("web/0", "a", "sw", "web", {"url": "u", "deep": {"x": [1, None]}}),
        Document("web/k", "b", "en", "web", {"score": None}),
        Document("web/l", "c", "en", "web"),
    ]


def test_long_lines_are_whole() -> None:
    Path("a.jsonl").write_text(json.dumps({"text": "x" * 3_000_000}) + "\n" + json.dumps({"text": "y"}))
    assert [len(text) for _, text in summary(read_records(json_lines("a.jsonl")))] == [3_000_000, 1]


# Plain text


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", [("notes/a.txt:1", "one\r\ntwo\n \n\n three\n")]),
        ("paragraph", [("notes/a.txt:1", "one\ntwo"), ("notes/a.txt:5", " three")]),
        ("line", [("notes/a.txt:1", "one"), ("notes/a.txt:2", "two"), ("notes/a.txt:5", " three")]),
    ],
)
def test_plain_text_is_cut_into_documents(document: str, expected: Sequence[tuple[str, str]]) -> None:
    Path("a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n \n\n three\n")
    assert summary(read_records(plain_text("a.txt", document=document))) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", [("a.txt:1", "invalid_utf8")]),
        ("paragraph", [("notes/a.txt:1", "one"), ("a.txt:3", "invalid_utf8"), ("notes/a.txt:6", "four")]),
        (
            "line",
            [
                ("notes/a.txt:1", "one"),
                ("notes/a.txt:3", "two"),
                ("a.txt:4", "invalid_utf8"),
                ("notes/a.txt:6", "four"),
            ],
        ),
    ],
)
def test_text_that_is_not_utf8_is_one_unreadable_document(document: str, expected: Sequence[tuple[str, str]]) -> None:
    Path("a.txt").write_bytes(b"one\n\ntwo\n\xff\xfe\n\nfour")
    assert summary(read_records(plain_text("a.txt", document=document))) == expected


def test_empty_text_file_has_no_paragraph_but_is_a_document() -> None:
    Path("a.txt").touch()
    assert read_records(plain_text("a.txt")) == []
    assert summary(read_records(plain_text("a.txt", document="file"))) == [("notes/a.txt:1", "")]


# Parquet


def test_parquet_rows_are_documents_across_row_groups() -> None:
    table = pyarrow.table({"text": [str(i) for i in range(3000)], "lang": ["en", None, ""] * 1000, "n": range(3000)})
    write_table(table, "a.parquet", row_group_size=1300)
    records = read_records(parquet("a.parquet", language_field="lang", language="sw", metadata_fields=("n",)))
    assert records[2999] == Document("table/a.parquet:3000", "2999", "sw", "table", {"n": 2999})
    assert records[0] == Document("table/a.parquet:1", "0", "en", "table", {"n": 0})
    assert len(records) == 3000


def test_parquet_bad_rows_are_noted_one_by_one() -> None:
    bad = pyarrow.array([b"one", b"\xff", None, b"four"]).view(pyarrow.string())
    write_table(pyarrow.table({"text": bad}), "a.parquet")
    assert summary(read_records(parquet("a.parquet"))) == [
        ("table/a.parquet:1", "one"),
        ("a.parquet:2", "invalid_utf8"),
        ("a.parquet:3", "not_text"),
        ("table/a.parquet:4", "four"),
    ]


def test_parquet_metadata_becomes_json_or_is_noted() -> None:
    day = pyarrow.array([0, None], pyarrow.timestamp("us"))
    write_table(pyarrow.table({"text": ["a", "b"], "day": day, "raw": [None, b"x"]}), "a.parquet")
    first, second = read_records(parquet("a.parquet", metadata_fields=("day", "raw")))
    assert first == Document("table/a.parquet:1", "a", "und", "table", {"day": "1970-01-01T00:00:00", "raw": None})
    assert second == Unreadable("a.parquet:2", "bad_metadata", "bytes is nothing that JSON holds")


def test_parquet_dates_that_python_does_not_know_are_numbers() -> None:
    late = pyarrow.array([1, 10**18], pyarrow.timestamp("us"))
    mars = pyarrow.array([5, 6], pyarrow.timestamp("us", "Mars/Phobos"))
    write_table(pyarrow.table({"text": ["a", "b"], "late": late, "mars": mars}), "a.parquet")
    records = read_records(parquet("a.parquet", metadata_fields=("late", "mars")))
    found = [dict(record.metadata) for record in records if isinstance(record, Document)]
    assert found == [{"late": "1970-01-01T00:00:00.000001", "mars": 5}, {"late": 10**18, "mars": 6}]


def test_parquet_text_may_be_bytes_or_in_a_dictionary() -> None:
    words = ["moja", "mbili", "moja"]
    for number, kind in enumerate((pyarrow.binary(), pyarrow.large_string(), pyarrow.large_binary())):
        write_table(pyarrow.table({"text": pyarrow.array([w.encode() for w in words]).cast(kind)}), f"{number}.parquet")
    write_table(pyarrow.table({"text": pyarrow.array(words).dictionary_encode()}), "3.parquet")
    write_table(pyarrow.table({"text": pyarrow.array([b"\xff"])}), "4.parquet")
    assert [text for _, text in summary(read_records(parquet("[0-3].parquet")))] == words * 4
    assert summary(read_records(parquet("4.parquet"))) == [("4.parquet:1", "invalid_utf8")]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pyarrow.array([[1]]), "is list<"),
        (pyarrow.array([1]), "is int64, not text; name another as text_field (columns of text: body)"),
        (pyarrow.nulls(1), "is null"),
    ],
)
def test_parquet_column_that_is_no_text_is_an_error(column: Any, says: str) -> None:
    write_table(pyarrow.table({"text": column, "body": ["x"]}), "a.parquet")
    assert f"column 'text' of a.parquet {says}" in error_of(parquet("a.parquet"))


def test_parquet_columns_of_one_name_are_an_error() -> None:
    write_table(pyarrow.table([["a"], ["b"], ["c"]], names=["text", "text", "x"]), "a.parquet")
    assert "a.parquet has 2 columns 'text'; rename them" in error_of(parquet("a.parquet"))
    assert summary(read_records(parquet("a.parquet", text_field="x"))) == [("table/a.parquet:1", "c")]


def test_parquet_missing_column_is_an_error_that_names_the_columns() -> None:
    write_table(pyarrow.table({"txt": ["a"], "url": ["u"]}), "a.parquet")
    message = error_of(parquet("a.parquet"))
    assert "no column 'text'" in message
    assert "did you mean 'txt'" in message
    assert "url" in message


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -9])
def test_parquet_cut_short_is_an_error(keep: int) -> None:
    write_table(pyarrow.table({"text": ["a" * 1000]}), "whole.parquet")
    Path("a.parquet").write_bytes(Path("whole.parquet").read_bytes()[:keep])
    assert "a.parquet is not Parquet, or is truncated or damaged" in error_of(parquet("a.parquet"))


def test_parquet_damaged_inside_is_an_error_after_its_good_rows() -> None:
    table = pyarrow.table({"text": [str(i * 7919**3) for i in range(4000)]})
    write_table(table, "a.parquet", row_group_size=2000, use_dictionary=False, compression="zstd")
    data = bytearray(Path("a.parquet").read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 200] = bytes(200)
    Path("a.parquet").write_bytes(data)
    assert "truncated or damaged after record 2000;" in error_of(parquet("a.parquet"))


# Hugging Face


def test_saved_dataset_is_read_by_split() -> None:
    split = {"train": datasets.Dataset.from_dict({"text": ["a", "b"], "id": ["x", "y"]})}
    datasets.DatasetDict(split).save_to_disk("saved")
    assert summary(read_records(hugging_face("saved"))) == [("hub/saved:1", "a"), ("hub/saved:2", "b")]
    assert summary(read_records(hugging_face("saved", id_field="id"))) == [("hub/x", "a"), ("hub/y", "b")]
    message = error_of(hugging_face("saved", split="test"))
    assert "no split 'test' but train" in message


def test_saved_single_split_is_not_taken_for_another() -> None:
    rows = [{"text": "a"}]
    datasets.Dataset.from_list(rows, split=datasets.Split.TEST).save_to_disk("saved")
    assert "no split 'train' but test" in error_of(hugging_face("saved"))
    assert summary(read_records(hugging_face("saved", split="test"))) == [("hub/saved:1", "a")]


@pytest.mark.parametrize("streaming", [True, False])
def test_directory_of_data_files_is_read(streaming: bool) -> None:
    Path("data").mkdir()
    Path("data", "train.jsonl").write_text('{"text": "a", "lang": "sw"}\n{"text": null, "lang": "en"}\n')
    records = read_records(hugging_face("data", streaming=streaming, language_field="lang"))
    detail = "'text' is NoneType; fields with text: lang"
    assert records == [Document("hub/data:1", "a", "sw", "hub"), Unreadable("data:2", "not_text", detail)]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("name", ["crawl[1]", "crawl?", "crawl*", "a::crawl1", "{crawl1,b}"])
def test_a_directory_is_read_whose_name_looks_like_a_pattern_of_another(name: str, streaming: bool) -> None:
    """The library takes it for a pattern, and reads `crawl1` without a word."""
    for directory, text in (("crawl1", "wrong"), (name, "right")):
        Path(directory).mkdir()
        Path(directory, "train.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert summary(read_records(hugging_face(name, streaming=streaming))) == [(f"hub/{name}:1", "right")]
    split = {"train": datasets.Dataset.from_dict({"text": ["saved"]})}
    datasets.DatasetDict(split).save_to_disk("plain")
    Path("plain").rename(f"saved {name}")
    assert summary(read_records(hugging_face(f"saved {name}", streaming=streaming))) == [
        (f"hub/saved {name}:1", "saved")
    ]


def test_a_file_that_the_library_would_leave_out_is_told() -> None:
    Path("data").mkdir()
    for name in ("train-1.jsonl", "train::2.jsonl"):
        Path("data", name).write_text('{"text": "a"}\n')
    message = error_of(hugging_face("data"))
    assert "'train::2.jsonl' in 'data' has '::' in its name" in message and "rename it" in message


def test_files_are_given_by_patterns_and_a_file_of_that_very_name_is_itself() -> None:
    for name, text in (("part[1].jsonl", "right"), ("part1.jsonl", "wrong")):
        Path(name).write_text(json.dumps({"text": text}) + "\n")
    assert [document.text for document in read_records(json_lines("part[1].jsonl"))] == ["right"]


def test_dataset_without_the_column_is_an_error() -> None:
    datasets.Dataset.from_dict({"txt": ["a"]}).save_to_disk("saved")
    assert "did you mean 'txt'" in error_of(hugging_face("saved"))


def test_broken_data_file_is_one_sentence() -> None:
    Path("data").mkdir()
    Path("data", "train.parquet").write_bytes(b"PAR1 no")
    assert "'data' cannot be read after record 0" in error_of(hugging_face("data"))


def test_identity_of_a_directory_is_its_visible_files() -> None:
    for name in ("data/b.txt", "data/sub/a.txt", "data/.cache/stamp", "data/.hidden"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    identity = READERS["hugging_face"].identity(hugging_face("data"), digest)
    assert identity == {"b.txt": "digest of b.txt", "sub/a.txt": "digest of a.txt"}


def test_empty_directory_is_an_error() -> None:
    Path("data").mkdir()
    assert "'data' is empty" in error_of(hugging_face("data"))


def test_hub_name_needs_a_commit() -> None:
    message = error_of(hugging_face("owner/name"))
    assert "branch may move" in message
    assert "40-digit commit" in message
    commit = "0" * 40
    identity = READERS["hugging_face"].identity(hugging_face("owner/name", revision=commit), digest)
    assert identity == {"path": "owner/name", "revision": commit}


def test_hub_is_asked_for_the_commit_subset_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    records = read_records(hugging_face("owner/name", revision="1" * 40, subset="sw", split="test"))
    assert summary(records) == [("hub/owner/name:1", "a")]
    assert asked == [(("owner/name", "sw"), {"split": "test", "revision": "1" * 40, "streaming": True})]


def test_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = error_of(hugging_face("owner/name", revision="1" * 40))
    assert "'owner/name' cannot be read" in message
    assert "network" in message


# Package text


def test_package_lines_split_into_columns_without_importing() -> None:
    write_package({"data/l.txt": b"sw\tmoja\tna\tmbili\n\n\tnull\nen\n!!\tx\n" + b"en\t\xff\n"})
    records = read_records(package_text("data/l.txt", text_column=1, language_column=0, language="fr"))
    assert records == [
        Document("lines/toy/data/l.txt:1", "moja\tna\tmbili", "sw", "lines"),
        Document("lines/toy/data/l.txt:3", "null", "fr", "lines"),
        Unreadable("toy/data/l.txt:4", "missing_field"),
        Unreadable(
            "toy/data/l.txt:5",
            "bad_language",
            "'!!' is no language tag; write BCP 47 (sw, zh-Hant) or x- and a name",
        ),
        Unreadable("toy/data/l.txt:6", "invalid_utf8"),
    ]
    assert "toy" not in sys.modules


def test_package_language_column_may_come_last() -> None:
    write_package({"l.csv": "a,b,en\n"})
    source = package_text("l.csv", delimiter=",", text_column=0, language_column=2)
    assert read_records(source) == [Document("lines/toy/l.csv:1", "a", "en", "lines")]
    whole = package_text("l.csv", delimiter=",")
    assert read_records(whole) == [Document("lines/toy/l.csv:1", "a,b,en", "und", "lines")]


def test_package_identity_is_the_digest_of_the_file() -> None:
    write_package({"l.txt": "a"})
    assert READERS["package_text"].identity(package_text("l.txt"), digest) == {
        "package": "toy",
        "file": "digest of l.txt",
    }


@pytest.mark.parametrize("path", ["../other.txt", "/etc/hostname", "data/../../other.txt", ".", "gone.txt", "data"])
def test_package_path_must_be_a_file_inside(path: str) -> None:
    write_package({"data/l.txt": "a"})
    Path("other.txt").write_text("secret")
    assert path in error_of(package_text(path))


@pytest.mark.parametrize(
    ("package", "says"),
    [("no_such_package", "pip install"), ("os.path", "top-level"), ("sys", "__init__.py"), ("ast", "__init__.py")],
)
def test_package_that_is_none_is_an_error(package: str, says: str) -> None:
    assert says in error_of(package_text("x", package=package))
    assert says in error_of(docstrings(package))


def test_missing_sample_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.package_text.find_spec", lambda name: None)
    assert "pip install 'concord-train[sample]'" in error_of(docstrings("sklearn"))


# Docstrings

MODULE = '''"""Module.

    Indented.
"""
from typing import overload

if True:
    class Shape:
        """A shape."""

        @property
        def area(self):
            """The area."""

        @area.setter
        def area(self, value):
            """Set the area."""

        async def draw(self):
            """Draw \\d."""
            def helper():
                """Help."""

        def silent(self): ...

def empty():
    """   """
'''


def test_docstrings_are_named_cleaned_and_in_file_order() -> None:
    write_package({"__init__.py": '"""Top."""', "b.py": MODULE, "a/__init__.py": '"""Sub."""', "a/x.py": "y = 1"})
    assert summary(read_records(docstrings("toy"))) == [
        ("science/toy", "Top."),
        ("science/toy.a", "Sub."),
        ("science/toy.b", "Module.\n\nIndented."),
        ("science/toy.b.Shape", "A shape."),
        ("science/toy.b.Shape.area", "The area."),
        ("science/toy.b.Shape.area#2", "Set the area."),
        ("science/toy.b.Shape.draw", "Draw \\d."),
        ("science/toy.b.Shape.draw.helper", "Help."),
    ]


def test_docstrings_skip_tests_and_note_broken_files() -> None:
    write_package(
        {
            "tests/t.py": '"""Test."""',
            "a/test/t.py": '"""Test."""',
            "broken.py": "def",
            "null.py": "x = 1\0",
            "latin.py": b'"""\xe9"""',
            "surrogate.py": '"""\\ud800"""',
            "testing.py": '"""Kept."""',
        }
    )
    assert summary(read_records(docstrings("toy"))) == [
        ("toy/broken.py", "syntax_error"),
        ("toy/latin.py", "syntax_error"),
        ("toy/null.py", "syntax_error"),
        ("toy.surrogate", "invalid_utf8"),
        ("science/toy.testing", "Kept."),
    ]
    assert "toy" not in sys.modules


def test_docstrings_identity_is_the_version_that_installed_the_files(here: Path) -> None:
    write_package({"a.py": ""})
    files = {"__init__.py": "digest of __init__.py", "a.py": "digest of a.py"}
    assert READERS["docstrings"].identity(docstrings("toy"), digest) == {"toy": files}
    info = here / "toy_distribution-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-distribution\nVersion: 1.2\n")
    assert READERS["docstrings"].identity(docstrings("toy"), digest) == {"toy": files}
    (info / "RECORD").write_text("toy/__init__.py,,\ntoy/a.py,,\n")
    assert READERS["docstrings"].identity(docstrings("toy"), digest) == {"toy": "1.2"}


def test_docstrings_parts_are_the_packages_once() -> None:
    write_package({})
    spans = READERS["docstrings"].spans(docstrings("toy", "json", "toy"))
    assert [span.name for span in spans] == ["toy", "json"]


# Installed packages, and the table


def test_eld_gives_a_thousand_documents_a_language() -> None:
    pytest.importorskip("eld")
    records = read_records(package_text("tests/data/big-test.txt", package="eld", text_column=1, language_column=0))
    languages = Counter(record.language for record in records if isinstance(record, Document))
    assert len(languages) == 60
    assert set(languages.values()) == {1000}


def test_networkx_docstrings_have_no_unreadable_ones() -> None:
    pytest.importorskip("networkx")
    records = read_records(docstrings("networkx"))
    assert len(records) > 1000
    assert all(isinstance(record, Document) for record in records)
    assert "science/networkx.algorithms.dag.topological_sort" in {id_ for id_, _ in summary(records)}


def test_readers_import_no_heavy_library() -> None:
    code = "import sys, data_prep.sources.table; print({'pyarrow', 'datasets', 'torch', 'numpy'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_parquet_that_arrow_does_not_read_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a nested type, or an encoding, that its version has not."""
    write_table(pyarrow.table({"text": ["a"]}), "a.parquet")

    def refuse(*_: Any, **__: Any) -> Any:
        raise pyarrow.ArrowNotImplementedError("Nested data conversions not implemented\nfor chunked array outputs")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", refuse)
    message = error_of(parquet("a.parquet"))
    assert "a.parquet cannot be read by pyarrow" in message and "write it again" in message
