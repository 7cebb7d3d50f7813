"""Plain UTF-8 text: a document is a file, a paragraph or a line."""

from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from configs.data import PlainTextSource
from data_prep.sources import file_parts as files
from data_prep.sources.document import Digest, Document, Unreadable


def parts(config: PlainTextSource) -> tuple[str, ...]:
    """The files."""
    return files.expand(config)


def identity(config: PlainTextSource, digest: Digest) -> JsonValue:
    """Name and digest of every file."""
    return files.file_identity(config, digest)


def read(config: PlainTextSource, part: str) -> Iterator[Document | Unreadable]:
    """Documents of one file; a document's number is the line it begins on. Blank lines and paragraphs are none."""
    name = files.display(part)
    for number, text in _texts(config, part):
        where = f"{name}:{number}"
        try:
            yield Document(f"{config.name}/{where}", text.decode(), config.language, config.name)
        except UnicodeDecodeError:
            yield Unreadable(where, "invalid_utf8")


def _texts(config: PlainTextSource, part: str) -> Iterator[tuple[int, bytes]]:
    if config.document == "file":
        yield 1, files.read_bytes(config.name, part)
        return
    lines = files.read_lines(config.name, part)
    yield from (
        _paragraphs(lines) if config.document == "paragraph" else ((n, line) for n, line in lines if line.strip())
    )


def _paragraphs(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
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
