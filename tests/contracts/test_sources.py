"""The contract of every kind of source in READERS."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from configs.base import UserError
from configs.data.sources import Source
from data_prep.sources.document import Document, Unreadable
from data_prep.sources.table import READERS
from tests.data_prep.corpora import read_records, read_span

MISSING = {
    "json_lines": {"paths": ("none/*.jsonl",)},
    "parquet": {"paths": ("none/*.parquet",)},
    "plain_text": {"paths": ("none.txt",)},
    "csv": {"paths": ("none.csv",)},
    "markup": {"paths": ("none.md",)},
    "latex": {"paths": ("none.tex",)},
    "warc": {"paths": ("none.warc.gz",)},
    "hugging_face": {"path": "owner/name"},
    "package_text": {"package": "no_such_package"},
    "docstrings": {"packages": ("no_such_package",)},
}
"""Changes to the example of a kind after which it names an input that does not exist."""


def json_lines(root: Path) -> dict[str, Any]:
    for name in "ba":
        (root / f"{name}.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": 3}\n')
    return {"paths": ["*.jsonl"]}


def parquet(root: Path) -> dict[str, Any]:
    import pyarrow
    from pyarrow.parquet import write_table

    for name in "ba":
        write_table(pyarrow.table({"text": ["one", None, "two"]}), root / f"{name}.parquet", row_group_size=2)
    return {"paths": ["*.parquet"]}


def plain_text(root: Path) -> dict[str, Any]:
    for name in "ba":
        (root / f"{name}.txt").write_bytes(b"one\n\ntwo\ntwo\n\n\xff\n")
    return {"paths": ["*.txt"]}


def csv(root: Path) -> dict[str, Any]:
    for name in "ba":
        (root / f"{name}.csv").write_text('n,text\n1,one\n2,"two\nlines"\n3\n')
    return {"paths": ["*.csv"]}


def markup(root: Path) -> dict[str, Any]:
    (root / "b.rst").write_bytes(b"\xff")
    (root / "c.rst").write_text("Title\n=====\n\ntext\n")
    (root / "a.md").write_text("# Title\n\ntext\n")
    return {"paths": ["*.rst", "*.md"]}


def latex(root: Path) -> dict[str, Any]:
    for name, text in (("a", b"one"), ("b", b"two"), ("c", b"\xff")):
        (root / f"{name}.tex").write_bytes(b"\\documentclass{x}\\begin{document}" + text + b"\\end{document}")
    return {"paths": ["*.tex"]}


def warc(root: Path) -> dict[str, Any]:
    write_warc(root / "a.warc.gz", [("http://a", "text/plain", b"one"), ("http://b", "text/html", b"<p>two</p>")])
    write_warc(root / "b.warc.gz", [("http://c", "text/plain", b"\xff")])
    return {"paths": ["*.warc.gz"], "main_content": False}


def write_warc(path: Path, pages: list[tuple[str, str, bytes]], status: str = "200 OK") -> None:
    """Write a web archive of pages, each with its URL, its type and its content."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with path.open("ab") as file:
        writer = WARCWriter(file, gzip=path.suffix == ".gz")
        for url, kind, content in pages:
            headers = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.0")
            record = writer.create_warc_record(url, "response", payload=io.BytesIO(content), http_headers=headers)
            writer.write_record(record)


def hugging_face(root: Path) -> dict[str, Any]:
    import datasets

    datasets.Dataset.from_dict({"text": ["one", None, "two"]}).save_to_disk(root / "saved")
    return {"path": "saved"}


def package_text(root: Path) -> dict[str, Any]:
    _package(root)
    return {"package": "concord_example", "path": "data/lines.txt", "text_column": 1, "language_column": 0}


def docstrings(root: Path) -> dict[str, Any]:
    _package(root)
    return {"packages": ["concord_example"]}


def _package(root: Path) -> None:
    (root / "concord_example" / "data").mkdir(parents=True)
    (root / "concord_example" / "__init__.py").write_text('"""One."""\n\n\ndef two():\n    """Two."""\n')
    (root / "concord_example" / "broken.py").write_text("def\n")
    (root / "concord_example" / "data" / "lines.txt").write_text("en\tone\nsw\tmbili\nalone\n")


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        *(json_lines, parquet, plain_text, csv, markup, latex, warc, hugging_face, package_text, docstrings),
    )
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=sorted(READERS))
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    assert request.param in EXAMPLES, f"give {request.param} an example in EXAMPLES and in MISSING"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"kind": request.param, "name": "example", **EXAMPLES[request.param](tmp_path)}
    adapter: TypeAdapter[Any] = TypeAdapter(Source)
    return adapter.validate_python(fields)


def test_parts_are_stable_ordered_and_distinct(source: Any) -> None:
    parts = READERS[source.kind].spans(source)
    assert parts == READERS[source.kind].spans(source)
    names = [span.name for span in parts]
    assert names == sorted(set(names))
    assert parts


def test_identity_is_stable_and_json(source: Any) -> None:
    identity = READERS[source.kind].identity(source, digest)
    assert json.loads(json.dumps(identity)) == identity == READERS[source.kind].identity(source, digest)


def test_reading_twice_gives_equal_records(source: Any) -> None:
    assert read_records(source) == read_records(source)


def test_records_are_documents_of_the_source_and_unreadable_ones(source: Any) -> None:
    records = read_records(source)
    documents = [record for record in records if isinstance(record, Document)]
    unreadable = [record for record in records if isinstance(record, Unreadable)]
    assert len(documents) + len(unreadable) == len(records)
    assert len(documents) >= 2
    assert {document.source for document in documents} == {"example"}
    assert all(document.text and document.language for document in documents)
    assert all(record.where and record.reason.isidentifier() for record in unreadable)
    assert unreadable


def test_ids_are_unique_and_free_of_absolute_paths(source: Any, tmp_path: Path) -> None:
    ids = [record.id for record in read_records(source) if isinstance(record, Document)]
    assert len(set(ids)) == len(ids)
    assert all(identifier.startswith("example/") and str(tmp_path) not in identifier for identifier in ids)


def test_parts_are_read_alike_from_another_directory(
    source: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, expected = READERS[source.kind], read_records(source)
    parts, copy = reader.spans(source), pickle.loads(pickle.dumps(source))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert [record for part in parts for record in read_span(copy, part)] == expected


def test_missing_input_is_one_line_that_names_the_source(source: Any) -> None:
    reader, missing = READERS[source.kind], source.model_copy(update=MISSING[source.kind])
    with pytest.raises(UserError) as caught:
        reader.spans(missing)
        reader.identity(missing, digest)
    assert "source 'example'" in str(caught.value)
    assert "\n" not in str(caught.value)
