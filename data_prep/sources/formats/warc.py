"""The source `warc`: pages of web archives, and their text (WARC and WET of ISO 28500)."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from pydantic import JsonValue

from configs.base import UserError
from configs.data.languages import normalize_language
from configs.data.sources import WarcSource
from configs.text import one_line
from data_prep.sources.content import DAMAGE, Readable, read_decompressed
from data_prep.sources.document import Digest, Document, Dropped, Entry, Span, Unreadable
from data_prep.sources.file_parts import damaged, digest_files, display_name, explain_damage, list_files
from data_prep.sources.remote_files import open_file

_HTML = ("text/html", "application/xhtml+xml")
_PAGES = ("response", "conversion")
"""Types of records that are pages: as a server answered, and as text that was made of that."""


def spans(config: WarcSource) -> tuple[Span, ...]:
    """Return the files, each once. Raises UserError if what reads them is not installed."""
    if missing := [name for name in ("warcio", "resiliparse") if find_spec(name) is None]:
        raise UserError(
            f"source '{config.name}': {' and '.join(missing)} is not installed here; pip install 'concord-train[web]'"
        )
    return list_files(config)


def identity(config: WarcSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: WarcSource, span: Span) -> Iterator[Entry]:
    """Yield the pages of a file, numbered by record, with their URL and date as metadata.

    Answers without success, and those that are neither HTML nor plain text, are dropped. Other records, such as
    requests, are no pages. Raises UserError if the file is damaged.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    name, language = display_name(span.name), normalize_language(config.language)
    number = 0
    with explain_damage(config.name, span.name, unit="record") as progress, open_file(span.name) as file:
        progress.number = 0
        stream = _Guarded(read_decompressed(file))
        records = iter(ArchiveIterator(stream, check_digests=False))
        while True:
            try:
                record = next(records, None)
                stream.check()
                if record is None:
                    break
                progress.number = number
                number += 1
                content = record.content_stream().read() if record.rec_type in _PAGES else b""
                stream.check()
                _check_length(record)
            except ArchiveLoadFailed as error:
                after = f" after record {number}: {one_line(error)}"
                raise damaged(config.name, span.name, after=after) from error
            if record.rec_type in _PAGES:
                yield _to_entry(config, record, content, f"{name}:{number}", language)


class _Guarded:
    """A file whose damage is kept until it is asked for: warcio takes any EOFError for the end of the archive."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end or where the file is damaged."""
        try:
            return self._file.read(size)
        except DAMAGE as error:
            self._error = error
            return b""

    def check(self) -> None:
        """Raise the damage that was met."""
        if self._error is not None:
            raise self._error


def _check_length(record: Any) -> None:
    """Raise EOFError if the record has fewer bytes than it says."""
    if getattr(record.raw_stream, "limit", 0):
        raise EOFError("the last record breaks off")


def _to_entry(config: WarcSource, record: Any, content: bytes, where: str, language: str) -> Entry:
    kind = _content_type(record)
    status = record.http_headers.get_statuscode() if record.http_headers else "200"
    if status != "200":
        return Dropped("not_found", language)
    if record.rec_type == "conversion" or kind == "text/plain":
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return Unreadable(where, "invalid_utf8")
    elif kind in _HTML:
        try:
            text = _extract(content, main_content=config.main_content)
        except ValueError as error:
            return Unreadable(where, "invalid_html", one_line(error))
    else:
        return Dropped("not_text", language)
    headers = record.rec_headers
    pairs = {"url": headers.get_header("WARC-Target-URI"), "date": headers.get_header("WARC-Date")}
    metadata = {key: str(value) for key, value in pairs.items() if value}
    return Document(f"{config.name}/{where}", text, language, config.name, metadata)


def _content_type(record: Any) -> str:
    headers = record.http_headers or record.rec_headers
    return (headers.get_header("Content-Type") or "").partition(";")[0].strip().lower()


def _extract(content: bytes, *, main_content: bool) -> str:
    """Return the text of a page, in the encoding that it declares or that its bytes show."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(content, detect_encoding(content) or "utf-8")
    text: str = extract_plain_text(tree, main_content=main_content, alt_texts=False)
    return text.encode(errors="replace").decode()
