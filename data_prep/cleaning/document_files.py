"""The format of clean documents on disk: JSON lines, one document a line, compressed with Zstandard."""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import zstandard

from cluster.host.files import whole_file
from data_prep.sources.document import Document

LEVEL = 3
"""Zstandard's default: about as fast as the disk."""

_READ_BYTES = 2**18


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write a shard atomically and return its number of documents."""
    count = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with whole_file(path) as partial, partial.open("wb") as file, compressor.stream_writer(file, closefd=False) as out:
        for document in documents:
            out.write(encode_document(document))
            count += 1
    return count


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a shard, in order."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
        for line in io.BufferedReader(stream, _READ_BYTES):
            yield Document(**orjson.loads(line))


def encode_document(document: Document) -> bytes:
    """Return the line of a document."""
    row = {
        "id": document.id,
        "text": document.text,
        "language": document.language,
        "source": document.source,
        "metadata": dict(document.metadata),
    }
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # an integer beyond 64 bits, in the metadata
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
