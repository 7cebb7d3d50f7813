"""The source `plain_text`: UTF-8 files in which a document is a file, a paragraph or a line."""

from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from configs.data.languages import normalize_language
from configs.data.sources import PlainTextSource
from data_prep.sources.document import Digest, Document, Entry, LineCut, Opened, Span, Unreadable
from data_prep.sources.file_parts import find_first_line, read_bytes, read_lines, split_by_lines
from data_prep.sources.listing import digest_files, list_files


def spans(config: PlainTextSource) -> tuple[Span, ...]:
    """Return the files, each once."""
    return list_files(config)


def split(config: PlainTextSource, span: Span, num_bytes: int) -> tuple[Span, ...]:
    """Cut a plain file into ranges of bytes, unless it is one document."""
    return (span,) if is_file_a_document(config) else split_by_lines(config, span, num_bytes)


def cut(config: PlainTextSource, span: Span) -> LineCut:
    """Find the first line, or the first paragraph, that begins in a range."""
    return find_first_line(config, span, after_blank=config.document == "paragraph")


def identity(config: PlainTextSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def is_file_a_document(config: PlainTextSource) -> bool:
    """Return whether a file is one document."""
    return config.document == "file"


def read(config: PlainTextSource, span: Span) -> Iterator[Entry]:
    """Yield the documents of a span; a document's number is the line it begins on. Blank ones are skipped."""
    if is_file_a_document(config):
        for file in read_bytes(config.name, span):
            yield file if isinstance(file, Unreadable) else _to_entry(config, f"{file[0]}:1", file[1])
        return
    for name, lines in read_lines(config.name, span):
        yield Opened(name)
        texts = _join_paragraphs(lines) if config.document == "paragraph" else (one for one in lines if one[1].strip())
        yield from (_to_entry(config, f"{name}:{number}", text) for number, text in texts)


def _to_entry(config: PlainTextSource, where: str, text: bytes) -> Document | Unreadable:
    try:
        language = normalize_language(config.language)
        return Document(f"{config.name}/{where}", text.decode(), language, config.name)
    except UnicodeDecodeError:
        return Unreadable(where, "invalid_utf8")


def _join_paragraphs(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    begin, paragraph = 0, list[bytes]()
    for number, line in lines:
        if line.strip():
            begin = begin if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield begin, b"\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield begin, b"\n".join(paragraph)
