"""Web archives: pages in whatever encoding they are kept, and archives that are damaged, or none."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard

from configs.data.sources import WarcSource
from data_prep.sources.document import Document, Dropped, Unreadable
from data_prep.sources.formats import http_body
from tests.contracts.test_sources import write_warc
from tests.data_prep.corpora import error_of, read_records, summary


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def warc(**fields: Any) -> WarcSource:
    return WarcSource(name="web", kind="warc", paths=("*.warc*",), **fields)


PAGE = b"""<html><head><title>T</title></head><body><nav><a href=/>Home</a> <a href=/x>More</a></nav>
<article><h1>Title</h1><p>%s</p></article><footer>Imprint</footer></body></html>"""


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_pages_become_text_with_their_url(name: str) -> None:
    long = "Ein längerer Satz, der etwas sagt. " * 10
    write_warc(Path(name), [("http://a/1", "text/html; charset=utf-8", PAGE % long.encode())])
    write_warc(Path(name), [("http://a/2", "text/html", PAGE % long.encode("latin-1"))])
    first, second = read_records(warc())
    assert isinstance(first, Document) and isinstance(second, Document)
    assert long.strip() in first.text and "Imprint" not in first.text and "Home" not in first.text
    assert long.strip() in second.text, "the encoding is found by the bytes"
    assert first.id == f"web/{name}:1" and first.metadata["url"] == "http://a/1" and "date" in first.metadata
    whole = read_records(warc(main_content=False))[0]
    assert isinstance(whole, Document) and "Imprint" in whole.text


def test_what_is_no_page_is_dropped_and_counted() -> None:
    write_warc(Path("a.warc.gz"), [("http://a", "image/png", b"\x89PNG")])
    write_warc(Path("a.warc.gz"), [("http://b", "text/html", b"gone")], status="404 Not Found")
    write_warc(Path("a.warc.gz"), [("http://c", "text/plain", b"plain"), ("http://d", "text/plain", b"\xff")])
    assert summary(read_records(warc())) == [
        ("", "not_text"),
        ("", "not_found"),
        ("web/a.warc.gz:3", "plain"),
        ("a.warc.gz:4", "invalid_utf8"),
    ]
    assert read_records(warc(language="deu_Latn"))[0] == Dropped("not_text", "de")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_web_archive_that_breaks_off_is_an_error(name: str, kept: float) -> None:
    write_warc(Path(name), [(f"http://a/{i}", "text/plain", str(i * 7919**9).encode() * 50) for i in range(20)])
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: int(len(data) * kept)])
    assert f"{name} is truncated or damaged after record " in error_of(warc())


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.formats.warc.find_spec", lambda name: None)
    Path("a.warc").touch()
    assert "pip install 'concord-train[web]'" in error_of(warc())


def write_answer(headers: dict[str, str], body: bytes, *, more: str = "", status: str = "200 OK") -> None:
    """Add a record of what a server answered to `a.warc`, byte by byte."""
    http = f"HTTP/1.1 {status}\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n"
    block = http.encode("latin-1") + body
    record = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\n{more}Content-Length: {len(block)}\r\n\r\n"
    )
    with Path("a.warc").open("ab") as file:
        file.write(record.encode() + block + b"\r\n\r\n")


TEXT = "Ein längerer Satz, der etwas sagt. " * 40
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


def _chunked(data: bytes) -> bytes:
    return b"%x;name=1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, data[:9], len(data) - 9, data[9:])


def _bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


ENCODED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": _bare_deflate,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("encoding", ENCODED)
def test_a_body_is_decoded_as_its_headers_say_or_as_it_was_kept(encoding: str, is_chunked: bool) -> None:
    headers = PLAIN | {"Content-Encoding": encoding} | ({"Transfer-Encoding": "chunked"} if is_chunked else {})
    encoded = ENCODED[encoding](TEXT.encode())
    write_answer(headers, _chunked(encoded) if is_chunked else encoded)
    expected = [TEXT]
    if encoding != "gzip, br":
        write_answer(headers, b"kept without the encodings")
        expected.append("kept without the encodings")
    assert [text for _, text in summary(read_records(warc()))] == expected


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "Deflate", "br", "zstd", "chunked"])
def test_a_body_that_breaks_off_is_unreadable_unless_the_archive_says_so(encoding: str) -> None:
    is_chunked = encoding == "chunked"
    encoded = _chunked(TEXT.encode()) if is_chunked else ENCODED[encoding](TEXT.encode())
    headers = PLAIN | {"Transfer-Encoding" if is_chunked else "Content-Encoding": encoding}
    write_answer(headers, encoded[: len(encoded) * 3 // 4])
    write_answer(headers, encoded[: len(encoded) * 3 // 4], more="WARC-Truncated: length\r\n")
    first, second = summary(read_records(warc()))
    assert first == ("a.warc:1", "damaged")
    assert TEXT.startswith(second[1]) or second[1] == "invalid_utf8"


def test_an_encoding_that_is_not_known_is_named() -> None:
    write_answer(PLAIN | {"Content-Encoding": "sdch"}, b"x")
    (record,) = read_records(warc())
    assert record == Unreadable("a.warc:1", "unknown_encoding", "Content-Encoding: sdch")


def test_a_page_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_body, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr("data_prep.sources.formats.warc.MAX_BODY_BYTES", 1000)
    for encoding in ("gzip", "deflate", "br", "zstd", ""):
        write_answer(PLAIN | {"Content-Encoding": encoding}, ENCODED[encoding](b"x" * 1001))
        write_answer(PLAIN | {"Content-Encoding": encoding}, ENCODED[encoding](b"x" * 1000))
    assert [text for _, text in summary(read_records(warc()))] == ["too_large", "x" * 1000] * 5


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("text/plain; charset=ISO-8859-1", "naïve €".encode("cp1252"), "naïve €"),
        ('text/plain; format=flowed; Charset="koi8-r"', "слово".encode("koi8-r"), "слово"),
        ("text/plain; charset=shift_jis", "言葉".encode("cp932"), "言葉"),
        ("text/plain; charset=ISO-8859-1", "naïve".encode(), "naÃ¯ve"),
        ("text/plain; charset=nonsense", "naïve".encode(), "naïve"),
        ("text/plain; charset=utf-8", "naïve".encode("latin-1"), "invalid_utf8"),
        (
            "text/html; charset=koi8-r",
            "<html><body><p>слово за словом</p></body></html>".encode("koi8-r"),
            "слово за словом",
        ),
        (
            "text/html",
            '<html><head><meta charset="koi8-r"></head><body><p>слово</p></body></html>'.encode("koi8-r"),
            "слово",
        ),
        ("", b"<!DOCTYPE html>\n<html><body><p>Text</p></body></html>", "Text"),
        ("", b"  <!-- x --> <HTML><body><p>Text</p></body></html>", "Text"),
        ("", b"\x89PNG", "not_text"),
        ("application/json", b"{}", "not_text"),
    ],
)
def test_types_and_character_sets_are_those_of_headers_else_of_the_page(kind: str, body: bytes, expected: str) -> None:
    write_answer({"Content-Type": kind} if kind else {}, body)
    assert [text for _, text in summary(read_records(warc(main_content=False)))] == [expected]


def test_bytes_that_are_wrong_here_and_there_leave_a_page_in_its_character_set() -> None:
    page = "<html><body><p>" + "Die Größe der Häuser überrascht. " * 20 + "</p></body></html>"
    kind = {"Content-Type": "text/html; charset=utf-8"}
    write_answer(kind, page.encode().replace("Größe".encode(), b"Gr\xffe", 1))
    write_answer(kind, page.encode()[: page.encode().index("öß".encode(), 200) + 1], more="WARC-Truncated: length\r\n")
    write_answer(PLAIN, "Größe".encode()[:3], more="WARC-Truncated: length\r\n")
    write_answer(kind, page.encode("latin-1"))
    first, second, third, fourth = (text for _, text in summary(read_records(warc(main_content=False))))
    assert "Gr\ufffde" in first and first.count("Größe") == 19
    assert "Größe" in second and second.endswith("Gr")
    assert third == "Gr" and fourth.count("Größe") == 20


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_follows_the_first_member_of_a_body_is_read(encoding: str) -> None:
    write_answer(PLAIN | {"Content-Encoding": encoding}, ENCODED[encoding](b"first ") + ENCODED[encoding](b"second"))
    write_answer(PLAIN | {"Content-Encoding": encoding}, ENCODED[encoding](b"first ") + b"garbage")
    assert [text for _, text in summary(read_records(warc()))] == ["first second", "damaged"]


@pytest.mark.parametrize("kept", range(5, 120, 6))
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_record_that_breaks_off_in_its_header_is_an_error(place: str, kept: int) -> None:
    write_answer(PLAIN, b"a page")
    one = Path("a.warc").read_bytes()
    # Of less than a field, in the middle, nothing is left to see.
    cut = one[: min(max(kept, 25 if place == "middle" else 0), one.index(b"\r\n\r\n") - 1)]
    data = {"first": cut, "middle": one + cut + one + one, "last": one + cut}[place]
    Path("a.warc").write_bytes(data)
    assert "a.warc is " in error_of(warc())


def test_a_url_may_end_like_the_first_line_of_a_record() -> None:
    write_answer(PLAIN, b"the standard", more="WARC-Refers-To-Target-URI: http://a/WARC/1.1\r\n")
    assert [text for _, text in summary(read_records(warc()))] == ["the standard"]


def test_elements_nested_a_hundred_thousand_deep_take_no_time_to_speak_of() -> None:
    write_answer({"Content-Type": "text/html"}, b"<html><body>" + b"<div>" * 100_000 + b"text</body></html>")
    assert [text for _, text in summary(read_records(warc()))] == ["text"]


@pytest.mark.parametrize("length", ["-1", "x", "", "12", "9999999", None])
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_length_that_is_wrong_loses_no_page_in_silence(
    name: str, length: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        write_answer(PLAIN, f"page {i} ".encode() * 20)
    data = Path("a.warc").read_bytes()
    start = data.index(b"Content-Length", len(data) // 4)
    end = data.index(b"\r\n", start)
    header = b"X: y" if length is None else b"Content-Length: " + length.encode()
    Path("a.warc").unlink()
    data = data[:start] + header + data[end:]
    Path(name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert f"{name} is truncated or damaged after record " in error_of(warc())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"<html></html>", b'{"text": "a"}\n' * 100, b"PK\x03\x04\0\0", bytes(600), b"x"])
def test_what_is_no_web_archive_is_told(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.warc").write_bytes(data)
    assert "a.warc is " in error_of(warc()) and capfd.readouterr() == ("", "")


def test_pages_without_http_are_read_and_records_of_no_known_type_are_told() -> None:
    head = (
        "WARC/1.0\r\nWARC-Type: {}\r\nWARC-Target-URI: {}\r\nContent-Type: {}\r\nContent-Length: 5\r\n\r\nwords\r\n\r\n"
    )
    kinds = [
        ("resource", "file:///a", "text/plain"),
        ("metadata", "http://a", "text/plain"),
        ("pesponse", "http://a", "x"),
    ]
    Path("a.warc").write_text("".join(head.format(*kind) for kind in kinds), newline="")
    found = read_records(warc())
    assert summary(found) == [("web/a.warc:1", "words"), ("a.warc:3", "unknown_type")]


def test_an_archive_of_the_older_format_is_read() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nText"
    version = b"1 0 Archive\nURL IP-address Archive-date Content-type Archive-length\n"
    head = b"filedesc://a.arc 0.0.0.0 20260101000000 text/plain %d\n" % len(version)
    one = b"http://a/ 1.2.3.4 20260101000000 text/plain %d\n" % len(page)
    Path("a.warc").write_bytes(head + version + b"\n" + one + page + b"\n")
    assert summary(read_records(warc())) == [("web/a.warc:2", "Text")]


def test_an_empty_archive_has_no_pages() -> None:
    Path("a.warc").touch()
    assert read_records(warc()) == []
