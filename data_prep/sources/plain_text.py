"""The source `plain_text`: UTF-8 files in which a document is a file, a paragraph or a line."""

from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from configs.data import PlainTextSource
from data_prep.sources.document import Digest, Document, Unreadable
from data_prep.sources.file_parts import digest_files, display_name, expand_paths, read_bytes, read_lines


def parts(config: PlainTextSource) -> tuple[str, ...]:
    """Return the files, each once."""
    return expand_paths(config)


def identity(config: PlainTextSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: PlainTextSource, part: str) -> Iterator[Document | Unreadable]:
    """Yield the documents of one file; a document's number is the line it begins on. Blank ones are skipped."""
    name = display_name(part)
    for number, text in _read_texts(config, part):
        where = f"{name}:{number}"
        try:
            yield Document(f"{config.name}/{where}", text.decode(), config.language, config.name)
        except UnicodeDecodeError:
            yield Unreadable(where, "invalid_utf8")


def _read_texts(config: PlainTextSource, part: str) -> Iterator[tuple[int, bytes]]:
    if config.document == "file":
        yield 1, read_bytes(config.name, part)
        return
    lines = read_lines(config.name, part)
    yield from (
        _join_paragraphs(lines) if config.document == "paragraph" else ((n, line) for n, line in lines if line.strip())
    )


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
