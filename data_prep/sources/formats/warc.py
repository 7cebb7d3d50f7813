"""The source `warc`: pages of web archives, and their text (WARC and WET of ISO 28500)."""

import logging
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from pydantic import JsonValue

from configs.base import UserError
from configs.data.languages import normalize_language
from configs.data.sources import WarcSource
from configs.text import one_line
from data_prep.sources.content import DAMAGE, HEAD_BYTES, Readable, describe_other_format, read_decompressed
from data_prep.sources.document import Digest, Document, Dropped, Entry, Span, Unreadable
from data_prep.sources.file_parts import damaged, display_name, explain_damage
from data_prep.sources.formats.http_body import MAX_BODY_BYTES, BodyError, decode_body, decode_text
from data_prep.sources.listing import digest_files, list_files
from data_prep.sources.remote_files import open_file

_HTML = ("text/html", "application/xhtml+xml")
_HTML_BEGIN = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?:<!--.*?-->\s*+)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_VERSION_AT_END = re.compile(r"[^/]WARC/1\.[0-9]\Z")
"""How a field ends that broke off before the first line of the next record; a URL may have that as its last part."""

_ERRORS_PER_MILLE = 20
"""Characters of a page in a thousand that may be wrong in its declared encoding."""

_MAX_DEPTH, _VOID = 1000, frozenset(b"area base br col embed hr img input link meta source track wbr p li".split())
_TAG = re.compile(rb"<(/?)([a-z][a-z0-9]*)[^<>]{0,2000}?(/?)>", re.IGNORECASE)
_PAGES = ("response", "resource", "conversion")
"""Types of records that are pages: as a server answered, as it was got without HTTP, and as text made of it."""

_OTHERS = ("warcinfo", "request", "metadata", "revisit", "continuation", "arc_header")


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
    requests, are no pages. Raises UserError if the file is damaged, or no web archive.
    """
    from warcio.exceptions import ArchiveLoadFailed

    name, language = display_name(span.name), normalize_language(config.language)
    number = 0
    with explain_damage(config.name, span.name, unit="record") as progress, open_file(span.name) as file:
        progress.number = 0
        stream = _Guarded(config.name, name, read_decompressed(file))
        try:
            for number, record in enumerate(_read_records(stream), 1):
                progress.number = number - 1
                if record.rec_type in _PAGES:
                    try:
                        yield _to_entry(config, record, f"{name}:{number}", language)
                    except BodyError as error:
                        yield Unreadable(f"{name}:{number}", error.reason, error.detail)
                elif record.rec_type not in _OTHERS:
                    yield Unreadable(f"{name}:{number}", "unknown_type", f"WARC-Type: {record.rec_type}")
        except ArchiveLoadFailed as error:
            raise damaged(config.name, span.name, after=f" after record {number}: {one_line(error)}") from error


def _read_records(stream: "_Guarded") -> Iterator[Any]:
    """Yield the records of an archive. Raises what warcio raises, and EOFError where it would go on in silence."""
    from warcio.archiveiterator import ArchiveIterator

    logging.getLogger("warcio").setLevel(logging.ERROR)  # it warns of spaces in a URL

    class Records(ArchiveIterator):  # type: ignore[misc]
        INC_RECORD = ""  # what it prints, unasked, of a record that is not followed by an empty line

    records, has_any = Records(stream, check_digests=False), False
    while (record := _next(records)) is not None:
        stream.check()
        has_any = True
        _check_header(record)
        yield record
        records.read_to_end()
        stream.check()
        if getattr(record.raw_stream, "limit", 0) or records.err_count:
            raise EOFError("a record has not the length that it says")
    stream.check()
    if records.next_line or (stream.has_read and not has_any):  # warcio takes such a header for the end
        raise EOFError("a record's header breaks off")


def _check_header(record: Any) -> None:
    """Raise EOFError if a record does not say its length, or its header goes on with that of the next record."""
    if record.length is None:
        raise EOFError("a record does not say its length")
    pairs = getattr(record.rec_headers, "headers", [])
    names = [name.lower() for name, _ in pairs]
    if any(names.count(name) > 1 for name in ("warc-type", "content-length", "warc-record-id")) or any(
        _VERSION_AT_END.search(text) for pair in pairs for text in pair
    ):
        raise EOFError("a record's header breaks off")


def _next(records: Any) -> Any:
    from warcio.exceptions import ArchiveLoadFailed

    try:
        return next(records, None)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a record without a header that it needs
        raise ArchiveLoadFailed(one_line(error)) from error


class _Guarded:
    """The bytes of a web archive. Damage is kept until it is asked for: warcio takes any EOFError for the end.

    Raises UserError if it begins like none.
    """

    def __init__(self, source: str, name: str, file: Readable) -> None:
        self._file = file
        self._error: Exception | None = None
        self.has_read = False
        """Whether there was anything but blanks."""

        self._head = file.read(HEAD_BYTES)
        if self._head.strip() and not self._head.lstrip().startswith((b"WARC/", b"filedesc:")):
            what = describe_other_format(self._head) or "no web archive: it begins neither with WARC/ nor filedesc:"
            raise UserError(f"source '{source}': {name} is {what}")

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end or where the file is damaged."""
        self.has_read = self.has_read or bool(self._head.strip())
        if self._head:
            piece = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(piece) :]
            return piece
        try:
            return self._file.read(size)
        except DAMAGE as error:
            self._error = error
            return b""

    def check(self) -> None:
        """Raise the damage that was met."""
        if self._error is not None:
            raise self._error


def _to_entry(config: WarcSource, record: Any, where: str, language: str) -> Entry:
    """Return what becomes of a page. Raises BodyError if it gives no text."""
    http, headers = record.http_headers, record.rec_headers
    if http and http.get_statuscode() != "200":
        return Dropped("not_found", language)
    kind, charset = _content_type(record)
    is_text = record.rec_type == "conversion" or kind == "text/plain"
    if not (is_text or kind in _HTML or not kind):
        return Dropped("not_text", language)
    is_cut = bool(headers.get_header("WARC-Truncated"))
    content = _read_body(record, is_cut=is_cut)
    if not (is_text or kind) and not _HTML_BEGIN.match(content[:HEAD_BYTES]):
        return Dropped("not_text", language)
    text = (
        decode_text(content, charset, is_cut=is_cut)
        if is_text
        else _extract(content, charset, is_cut=is_cut, main_content=config.main_content)
    )
    if text is None:
        return Unreadable(where, "invalid_utf8")
    pairs = {"url": headers.get_header("WARC-Target-URI"), "date": headers.get_header("WARC-Date")}
    metadata = {key: str(value) for key, value in pairs.items() if value}
    return Document(f"{config.name}/{where}", text, language, config.name, metadata)


def _is_nested_deep(content: bytes) -> bool:
    """Return whether elements are nested more than _MAX_DEPTH deep, about."""
    if content.count(b"<") < _MAX_DEPTH:
        return False
    depth = 0
    for end, name, is_empty in _TAG.findall(content):
        if not is_empty and name.lower() not in _VOID:
            depth = max(0, depth - 1) if end else depth + 1
            if depth > _MAX_DEPTH:
                return True
    return False


def _content_type(record: Any) -> tuple[str, str]:
    """Return the type and the character set of a page, each empty if it is not known."""
    value = (record.http_headers or record.rec_headers).get_header("Content-Type") or ""
    kind, *parameters = (piece.strip() for piece in value.split(";"))
    charset = next((one.partition("=")[2] for one in parameters if one.lower().startswith("charset=")), "")
    identified = record.rec_headers.get_header("WARC-Identified-Payload-Type") or ""
    return (kind or identified).lower(), charset.strip("\"' ")


def _read_body(record: Any, *, is_cut: bool) -> bytes:
    data: bytes = record.raw_stream.read(MAX_BODY_BYTES + 1)
    if len(data) > MAX_BODY_BYTES:
        raise BodyError("too_large", f"it has more than {MAX_BODY_BYTES >> 20} MiB")
    if not record.http_headers:
        return data
    transfer, content = (record.http_headers.get_header(key) or "" for key in ("Transfer-Encoding", "Content-Encoding"))
    return decode_body(data, transfer=transfer, content=content, is_cut=is_cut)


def _extract(content: bytes, charset: str, *, is_cut: bool, main_content: bool) -> str:
    """Return the text of a page, in the encoding that its header or it itself declares, or that its bytes show."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    page = decode_text(content, charset, is_cut=is_cut, errors_per_mille=_ERRORS_PER_MILLE) if charset else None
    main_content = main_content and not _is_nested_deep(content)  # to look for it takes the square of the depth
    try:
        if page is not None:
            tree = HTMLTree.parse(page)
        else:
            tree = HTMLTree.parse_from_bytes(content, detect_encoding(content, from_html_meta=True) or "utf-8")
        text: str = extract_plain_text(tree, main_content=main_content, alt_texts=False)
    except ValueError as error:
        raise BodyError("invalid_html", one_line(error)) from error
    return text.encode(errors="replace").decode()
