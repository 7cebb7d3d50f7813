"""CSV, markup and files behind URLs."""

import gzip
import json
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from configs.base import InfrastructureError, UserError
from configs.data.sources import CsvSource, JsonLinesSource, MarkupSource, ParquetSource, PlainTextSource
from data_prep.sources import file_parts
from data_prep.sources.document import Document, Unreadable
from data_prep.sources.formats import csv_tables
from data_prep.sources.formats import markup as markup_module
from data_prep.sources.formats.markup import markdown_source, rst_plain, rst_source
from data_prep.sources.remote_files import version_of
from data_prep.sources.table import READERS
from tests.data_prep.corpora import error_of, read_records, summary


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# CSV


def csv(**fields: Any) -> CsvSource:
    return CsvSource(name="t", kind="csv", paths=("a.csv",), **fields)


def test_csv_values_may_hold_delimiters_quotation_marks_and_line_ends() -> None:
    Path("a.csv").write_bytes(b'\xef\xbb\xbfid,text,lang\r\n7,"one, ""two""\r\nthree",swh_Latn\r\n\r\n8,four,\r\n')
    records = read_records(csv(id_field="id", language_field="lang", language="en", metadata_fields=("id",)))
    assert records == [
        Document("t/7", 'one, "two"\nthree', "sw", "t", {"id": "7"}),
        Document("t/8", "four", "en", "t", {"id": "8"}),
    ]


def test_csv_rows_that_are_none_are_noted() -> None:
    Path("a.csv").write_bytes(b'a,text\n1,one\n2\n3,x,y\n4,\xff\n5,"five"x\n6,six\n')
    assert summary(read_records(csv())) == [
        ("t/a.csv:2", "one"),
        ("a.csv:3", "bad_columns"),
        ("a.csv:4", "bad_columns"),
        ("a.csv:5", "invalid_utf8"),
        ("a.csv:6", "invalid_csv"),
        ("t/a.csv:7", "six"),
    ]


def test_a_quotation_mark_that_is_not_closed_takes_its_own_line_alone() -> None:
    """The next one, lines later, would close it; at the end of the file nothing does."""
    rows = [f"{i},text of {i}" for i in range(1, 40)]
    rows[4], rows[19], rows[38] = '5,"open', '20,"closed, well"', '39,"open to the end'
    Path("a.csv").write_text("n,text\n" + "\n".join(rows) + "\n")
    found = summary(read_records(csv(id_field="n")))
    assert [one for one in found if one[0].startswith("a.csv")] == [
        ("a.csv:6", "invalid_csv"),
        ("a.csv:40", "invalid_csv"),
    ]
    assert [key for key, _ in found if key.startswith("t/")] == [f"t/{i}" for i in range(1, 40) if i not in (5, 39)]
    assert ("t/20", "closed, well") in found and ("t/21", "text of 21") in found


def test_a_row_of_csv_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_tables, "MAX_ROW_CHARACTERS", 200)
    lines = ['1,"open', *(f"{i},{'x' * 30}" for i in range(2, 60)), "60," + "y" * 300]
    Path("a.csv").write_text("n,text\n" + "\n".join(lines) + "\n")
    [first, *others] = read_records(csv())
    assert isinstance(first, Unreadable) and "a quotation mark" in first.detail and first.where == "a.csv:2"
    assert len(others) == 59 and all(isinstance(one, Document) for one in others)


def test_quotation_marks_that_pair_nowhere_end_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be looked for in all that follows: an hour for a megabyte."""
    monkeypatch.setattr(csv_tables, "MAX_CHARACTERS_AGAIN", 1 << 20)
    Path("a.csv").write_text("text,n\n" + 'x","\n' * 60_000)
    assert "quotation marks that do not pair in many rows, up to line" in error_of(csv())


def test_lines_of_a_row_with_too_many_values_are_said() -> None:
    Path("a.csv").write_text('n,text\n1,"open\n2,two\n3,","end"\n4,four\n')
    bad, good = read_records(csv())
    assert isinstance(bad, Unreadable) and bad.detail == "3 values for 2 columns in lines 2 to 4"
    assert isinstance(good, Document) and good.text == "four"


def test_csv_without_the_column_and_with_another_delimiter() -> None:
    Path("a.csv").write_text("txt\tn\none\t1\n")
    assert "no column 'text'" in error_of(csv())
    assert "did you mean 'txt'?" in error_of(csv(delimiter="\t"))
    assert summary(read_records(csv(delimiter="\t", text_field="txt"))) == [("t/a.csv:2", "one")]


def test_a_large_value_is_whole() -> None:
    Path("a.csv").write_text(f"text\n{'x' * 1_000_000}\n")
    assert len(summary(read_records(csv()))[0][1]) == 1_000_000


# Markdown and reStructuredText

MARKDOWN = """---
title: front
---
# Head *one*

Text with `code`, a [link](http://a) and $x_1 < 2$.
Second line. <!-- hidden -->

```python
# kept <!-- kept -->
x = "[a](b)"
```

| a | b |
|---|---|
| 1 | **2** |

- item
"""
RST = """Head
====

.. a comment
   that goes on

Text with ``code`` and :math:`x_1`, see `link <http://a>`_ and :ref:`that`.

.. note:: Mind this.

.. code-block:: python

   x = 1  # kept

.. math::

   a^2 + b^2
"""


def markup(name: str, **fields: Any) -> str:
    (record,) = read_records(MarkupSource(name="docs", kind="markup", paths=(name,), **fields))
    assert isinstance(record, Document) and record.id == f"docs/{name}"
    return record.text


def test_markdown_as_it_is_written_is_without_front_matter_and_comments() -> None:
    Path("a.md").write_text(MARKDOWN)
    text = markup("a.md")
    assert text.startswith("# Head *one*\n") and "hidden" not in text
    assert "# kept <!-- kept -->" in text and "| 1 | **2** |" in text


def test_markdown_as_it_reads() -> None:
    Path("a.md").write_text(MARKDOWN)
    assert markup("a.md", text="plain").split("\n\n") == [
        "Head one",
        "Text with code, a link and $x_1 < 2$.\nSecond line.",
        '# kept <!-- kept -->\nx = "[a](b)"',
        *("a", "b", "1", "2", "item"),
    ]


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("~~~~\n<!-- a -->\n~~~\n~~~~\n<!-- b -->x", "~~~~\n<!-- a -->\n~~~\n~~~~\nx"),
        ("```\n<!-- a -->\n``` x\n````\n<!-- b -->x", "```\n<!-- a -->\n``` x\n````\nx"),
        ("``` a`b\n<!-- b -->x", "``` a`b\nx"),
        ("<!-- a -->\n```\n<!-- never closed -->\n", "\n```\n<!-- never closed -->\n"),
        ("a <!-- b", "a <!-- b"),
        ("a `<!--` b and c `-->` d <!-- x -->e", "a `<!--` b and c `-->` d e"),
        ("``a ` <!-- b -->`` `c\n\n` <!-- x -->e", "``a ` <!-- b -->`` `c\n\n` e"),
        ("- ```\n  <!-- a -->\n  ```\n<!-- x -->e", "- ```\n  <!-- a -->\n  ```\ne"),
        ("text\n\n    <!-- code -->\n\t<!-- code -->\n", "text\n\n    <!-- code -->\n\t<!-- code -->\n"),
        ("---\ntitle: x\n---\ntext", "text"),
        ("---\n# comment\n'title': x\n...\ntext", "text"),
        ("---\n\nIntro\n\n---\ntext", "---\n\nIntro\n\n---\ntext"),
        ("---\nIntro\n---\ntext", "---\nIntro\n---\ntext"),
        ("---\n---\ntext", "text"),
        ("---\nNote: this is only the beginning...\n\nBody.\n", "---\nNote: this is only the beginning...\n\nBody.\n"),
        ("---\ntitle: Wait for it...\nurl: a---\n---\ntext", "text"),
        ("a <!-->b--> c", "a  c"),
    ],
)
def test_comments_of_markdown_are_those_outside_of_code(written: str, left: str) -> None:
    assert markdown_source(written) == left


def test_restructured_text_keeps_substitutions_long_lines_and_forgets_roles() -> None:
    text = ".. |name| replace:: The Project\n\n|name| is good.\n"
    assert rst_source(text) == text and rst_plain(text) == "The Project is good."
    long = "Title\n=====\n\n" + "word " * 4000 + "\n\nLast.\n"
    assert rst_plain(long) == f"Title\n\n{('word ' * 4000).strip()}\n\nLast."
    alone = rst_plain("Uses :red:`y` here.\n")
    rst_plain(".. role:: red\n\nA :red:`x`.\n")
    assert rst_plain("Uses :red:`y` here.\n") == alone, "whatever was read before"


@pytest.mark.parametrize(
    "text",
    [
        "Para.\n\n..  note::\n\n    Important.\n",
        "Para.\n\n.. note ::\n\n    Important.\n",
        "Para.\n\n..  [1] The footnote.\n",
        "Para.\n\n..\n\n    Quoted.\n",
        "Hi\n..\n\n  Text one.\n",
    ],
)
def test_what_is_no_comment_of_restructured_text_stays(text: str) -> None:
    assert rst_source(text) == text


def test_comments_of_restructured_text_are_gone() -> None:
    text = "One.\n\n.. a comment\n   goes on\n\n..\n   another\n\nTwo.\n.. third\n.. fourth\n\nThree.\n"
    assert rst_source(text).split() == ["One.", "Two.", "Three."]


def test_files_that_are_documents_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_parts, "MAX_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(markup_module, "MAX_RENDERED_CHARACTERS", 50)
    for name, size in (("a.md", 40), ("b.md", 60), ("c.md", 101)):
        Path(name).write_text("x" * size)
    for text, second in (("source", "x" * 60), ("plain", "too_large")):
        source = MarkupSource(name="m", kind="markup", paths=("*.md",), text=text)
        assert [one for _, one in summary(read_records(source))] == ["x" * 40, second, "too_large"]
    source = PlainTextSource(name="m", kind="plain_text", paths=("*.md",), document="file")
    assert [one for _, one in summary(read_records(source))] == ["x" * 40, "x" * 60, "too_large"]


@pytest.mark.parametrize("piece", ["<!--", "~~~~x\n", "```x\n", "`", "` ``", "`a\n"])
def test_markdown_that_never_closes_takes_no_time_to_speak_of(piece: str) -> None:
    assert markdown_source(piece * 100_000) == piece * 100_000


def test_restructured_text_as_it_is_written_and_as_it_reads() -> None:
    Path("a.rst").write_text(RST)
    source, plain = markup("a.rst"), markup("a.rst", text="plain")
    assert "comment" not in source and "goes on" not in source and ".. note:: Mind this." in source
    assert plain.split("\n\n")[:2] == ["Head", "Text with code and x_1, see link and :ref:`that`."]
    assert "Mind this." in plain and "x = 1  # kept" in plain and "a^2 + b^2" in plain and "comment" not in plain


def test_a_file_that_names_another_does_not_read_it() -> None:
    Path("secret.txt").write_text("secret")
    Path("a.rst").write_text("Text.\n\n.. include:: secret.txt\n\n.. raw:: html\n   :file: secret.txt\n")
    assert "secret\n" not in markup("a.rst", text="plain")


def test_what_docutils_says_of_a_page_of_sphinx_is_no_text() -> None:
    page = (
        "Header\n====\n\nSee :func:`open`.\n\n.. toctree::\n\n   one\n\n.. image:: a.png\n   :foo: 1\n\nEnd |gone|.\n"
    )
    Path("a.rst").write_text(page)
    blocks = markup("a.rst", text="plain").split("\n\n")
    assert blocks[:2] == ["Header", "See :func:`open`."] and blocks[-1] == "End |gone|."
    assert any(".. toctree::" in block for block in blocks) and sum("Header" in block for block in blocks) == 1
    said = ("docutils", "role", "Unknown", "Error", "Trying", "underline", "Undefined")
    assert not [block for block in blocks if any(word in block for word in said)]


def test_lists_nested_too_deep_are_unreadable() -> None:
    Path("a.rst").write_text("".join(f"{'  ' * level}- item\n\n" for level in range(300)))
    found = read_records(MarkupSource(name="docs", kind="markup", paths=("a.rst",), text="plain"))
    assert found == [Unreadable("a.rst", "nested_too_deep")]


def test_the_format_may_be_told() -> None:
    Path("a.txt").write_text("Head\n====\n\n.. a comment\n\ntext\n")
    assert "comment" in markup("a.txt") and "comment" not in markup("a.txt", format="rst")


# URLs


@pytest.fixture
def memory() -> Any:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def json_lines(*paths: str) -> JsonLinesSource:
    return JsonLinesSource(name="web", kind="json_lines", paths=paths)


def test_files_behind_a_url_are_read_like_others(memory: Any) -> None:
    for name in ("b", "a"):
        lines = "".join(json.dumps({"text": f"{name}{i}"}) + "\n" for i in range(3))
        memory.pipe(f"/crawl/{name}.jsonl.gz", gzip.compress(lines.encode()))
    records = read_records(json_lines("memory://crawl/*.jsonl.gz"))
    assert [text for _, text in summary(records)] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert summary(records)[0][0] == "web/memory:///crawl/a.jsonl.gz:1"


def test_a_file_behind_a_url_changes_its_identity_with_its_version(memory: Any) -> None:
    memory.pipe("/a.jsonl", b'{"text": "one"}\n')
    reader = READERS["json_lines"]
    first = reader.identity(json_lines("memory://a.jsonl"), lambda path: "")
    assert first == reader.identity(json_lines("memory://a.jsonl"), lambda path: "")
    memory.pipe("/a.jsonl", b'{"text": "two"}\n')
    assert reader.identity(json_lines("memory://a.jsonl"), lambda path: "") != first


def test_parquet_behind_a_url(memory: Any) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": ["one", "two"]}), "local.parquet")
    memory.pipe("/a.parquet", Path("local.parquet").read_bytes())
    found = read_records(ParquetSource(name="t", kind="parquet", paths=("memory://a.parquet",)))
    assert [text for _, text in summary(found)] == ["one", "two"]


def test_a_url_without_files_is_one_sentence(memory: Any) -> None:
    assert "nothing matches 'memory://gone/*.jsonl'" in error_of(json_lines("memory://gone/*.jsonl"))
    assert "nothing matches 'memory://gone.jsonl'" in error_of(json_lines("memory://gone.jsonl"))


class _Server(BaseHTTPRequestHandler):
    """Answers `/STATUS/...` with that status, and a text if it is 200."""

    def do_HEAD(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        if "unsized" not in self.path:
            self.send_header("Content-Length", "4" if status == 200 else "0")
        self.send_header("ETag", '"7"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if self.path.startswith("/200"):
            self.wfile.write(b"te" if "cut" in self.path else b"text")

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_file_behind_http_is_read_and_known_by_its_etag(server: str) -> None:
    source = PlainTextSource(name="web", kind="plain_text", paths=(f"{server}/200/a.txt",))
    assert [text for _, text in summary(read_records(source))] == ["text"]
    identity = READERS["plain_text"].identity(source, lambda path: "")
    assert identity == {f"{server}/200/a.txt": {"size": 4, "version": 'ETag "7"'}}


def test_a_file_whose_size_a_server_does_not_say_is_read(server: str) -> None:
    source = PlainTextSource(name="web", kind="plain_text", paths=(f"{server}/200/unsized.txt",))
    assert [text for _, text in summary(read_records(source))] == ["text"]


def test_a_connection_that_is_lost_in_a_file_may_pass(server: str) -> None:
    source = PlainTextSource(name="web", kind="plain_text", paths=(f"{server}/200/cut.txt",))
    with pytest.raises(InfrastructureError, match=r"cut\.txt cannot be read"):
        read_records(source)


def test_files_in_an_archive_behind_a_url_are_named_with_it(tmp_path: Path) -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("x.jsonl", '{"text": "one"}\n')
        archive.writestr("y.jsonl", '{"text": "two"}\n')
    url = f"zip://*.jsonl::{tmp_path}/a.zip"
    assert [text for _, text in summary(read_records(json_lines(url)))] == ["one", "two"]
    assert READERS["json_lines"].identity(json_lines(url), lambda path: "")
    Path("b.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be listed"):
        read_records(json_lines(f"zip://*.jsonl::file://{tmp_path}/b.zip"))
    url = f"zip://*.jsonl::file://{tmp_path}/a.zip"
    assert [text for _, text in summary(read_records(json_lines(url)))] == ["one", "two"]
    identity = READERS["json_lines"].identity(json_lines(url), lambda path: "")
    assert set(identity) == {f"zip://{name}.jsonl::file://{tmp_path}/a.zip" for name in "xy"}


def test_a_server_of_another_protocol_out_of_reach_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match="cannot be listed"):
        read_records(json_lines(f"ftp://127.0.0.1:{port}/a.jsonl"))


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (404, UserError, "nothing matches"),
        (403, UserError, "cannot be listed"),
        (500, InfrastructureError, "cannot be listed"),
        (503, InfrastructureError, "cannot be listed"),
    ],
)
def test_what_a_server_refuses_is_no_missing_file(server: str, status: int, kind: type[UserError], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_records(json_lines(f"{server}/{status}/a.jsonl"))
    assert type(caught.value) is kind and str(status) in str(caught.value)
    assert os.getcwd() not in str(caught.value)


def test_a_server_that_is_out_of_reach_is_no_missing_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InfrastructureError, match="cannot be listed") as caught:
        read_records(json_lines(f"http://127.0.0.1:{port}/a.jsonl"))
    assert "check the URL, its credentials and the network" in str(caught.value)


def test_the_version_of_a_file_is_what_changes_with_its_bytes_alone() -> None:
    info = {"size": 4, "ETag": "7", "LastModified": "today", "mtime": 5.0}
    assert version_of(info) == version_of(info | {"LastModified": "tomorrow", "mtime": 6.0}) == "ETag 7"
    assert version_of({"size": 4, "mtime": 5.0}) == "mtime 5.0" and version_of({"size": 4}) == ""


def test_files_behind_a_url_are_listed_by_one_request(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 files a question for each would take an hour."""
    for i in range(9):
        memory.pipe(f"/crawl/{i}.jsonl", b"{}")
    asked: list[str] = []
    info = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda self, path, **kw: asked.append(path) or info(self, path, **kw))
    reader = READERS["json_lines"]
    assert len(reader.spans(json_lines("memory://crawl/*.jsonl"))) == 9
    assert len(reader.identity(json_lines("memory://crawl/*.jsonl"), lambda path: "")) == 9
    assert len(asked) <= 6


def test_an_unknown_protocol_and_a_password_are_refused() -> None:
    with pytest.raises(UserError, match="the protocol 'nosuch' cannot be used here"):
        read_records(json_lines("nosuch://a/b"))
    with pytest.raises(ValueError, match="must hold no user and password"):
        json_lines("s3://me:secret@bucket/a.jsonl")
