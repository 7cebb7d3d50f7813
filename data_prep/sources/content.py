"""What a file holds, by its first bytes rather than by its name: its compression, its encoding, or another format."""

import bz2
import codecs
import gzip
import lzma
import posixpath
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, Protocol, cast

import zstandard

DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError, tarfile.TarError, UnicodeError)
"""What is raised where a file breaks off or does not decode."""


class Readable(Protocol):
    """A file that is read from its beginning."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        ...


HEAD_BYTES = 512
_READ_BYTES = 2**18
_LINE_END_BYTES = 2**20
# zstd may make 128 KiB of 4 bytes: 4 KiB at a time keeps a call's result under 128 MiB, and costs 4% of the speed.
_ZST_READ_BYTES = 2**12
BOM = b"\xef\xbb\xbf"
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PAR1", "Parquet, which kind: parquet reads"),
    (0, b"ARROW1", "Arrow; write it as Parquet, for kind: parquet"),
    (0, b"Obj\x01", "Avro; write it as Parquet, for kind: parquet"),
    (0, b"ORC", "ORC; write it as Parquet, for kind: parquet"),
    (0, b"PK\x03\x04", "a zip archive (or an office document); unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (0, b"Rar!\x1a", "a rar archive; unpack it"),
    (0, b"%PDF-", "PDF; extract its text first"),
    (0, b"SQLite format 3", "an SQLite database; export its rows as JSON lines"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4, which is not read; compress it with zstd"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd a second time; decompress it once"),
    (0, b"\x1f\x8b", "compressed by gzip a second time; decompress it once"),
    (0, b"\xff\xfe\x00\x00", "UTF-32; convert it with iconv -t UTF-8"),
    (0, b"\x00\x00\xfe\xff", "UTF-32; convert it with iconv -t UTF-8"),
)
"""Place, bytes there, and what they mean, with what to do."""


def read_chunks(file: Readable, name: str) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed and in UTF-8, without a byte-order mark.

    It is read once, from where it is. Raises one of DAMAGE if it breaks off. A file that is named like a compressed one
    and is neither that nor text is damaged.
    """
    head = file.read(HEAD_BYTES)
    is_named_so = name.lower().endswith((".gz", ".zst", ".zstd", ".xz", ".bz2"))
    if is_named_so and not is_compressed(head) and (not head or not _is_text(head)):
        raise EOFError("no compressed file begins so")
    return _to_utf8(_decompress(Rewound(head, file), head))


def read_decompressed(file: Readable) -> Readable:
    """Return a file to read the decompressed bytes of another from, whatever they are; it raises one of DAMAGE."""
    head = file.read(HEAD_BYTES)
    return _Stream(_decompress(Rewound(head, file), head))


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at its end
    except UnicodeDecodeError:
        return False
    return True


def is_compressed(head: bytes) -> bool:
    """Return whether a file that begins so is compressed, or in UTF-16: one that is read from its beginning."""
    return _decompressor(head) is not None or (head[:2] in _UTF_16 and head[2:4] != b"\0\0")


def is_tar(head: bytes) -> bool:
    """Return whether a file that begins so, decompressed, is a tar archive; one of Unix V7 shows it by a checksum."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def read_members(chunks: Iterator[bytes]) -> Iterator[tuple[str, Iterator[bytes], str | None]]:
    """Yield the name and the bytes, decompressed, of each regular file of a tar archive, in order.

    Of a link within the archive it yields the name, no bytes, and the name that it leads to.

    The archive is read as a stream: the bytes of a member are to be read before the next is asked for. Archives that
    follow each other in a file are read as one.
    """
    stream = _Stream(chunks)
    block = stream.read(tarfile.BLOCKSIZE)
    while block:
        archive_file = cast(BinaryIO, Rewound(block, stream))
        with tarfile.open(fileobj=archive_file, mode="r|", bufsize=tarfile.BLOCKSIZE) as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members.clear()  # it would keep them all
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield member.name, read_chunks(cast(Readable, file), member.name), None
                elif member.issym() or member.islnk():
                    beside = posixpath.dirname(member.name) if member.issym() else ""
                    yield member.name, iter(()), posixpath.normpath(posixpath.join(beside, member.linkname))
        # tarfile ends in silence at a damaged header, as at the end of the file; the end of an archive is zeros.
        if any(stream.last) or len(stream.last) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the archive has no end")
        while (block := stream.read(tarfile.BLOCKSIZE)) and not any(block):
            pass


class Rewound:
    """A file of which the beginning has been read, as if it had not."""

    def __init__(self, head: bytes, file: Readable) -> None:
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end or if that is what there is."""
        if not self._head:
            return self._file.read(size)
        piece = self._head if size < 0 else self._head[:size]
        self._head = self._head[len(piece) :]
        return piece + self._file.read(-1) if size < 0 else piece


class _Stream:
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""
        self.last = b""
        """What was returned last."""

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end."""
        pieces, left = [], sys.maxsize if size < 0 else size
        while left and (piece := self._rest or next(self._chunks, b"")):
            pieces.append(piece[:left])
            self._rest = piece[left:]
            left -= len(pieces[-1])
        self.last = b"".join(pieces)
        return self.last


def describe_other_format(head: bytes) -> str | None:
    """Return what a file is, and what to do with it, if it begins like one that holds no text; None if it does not."""
    for place, magic, meaning in _FORMATS:
        # Letters alone may begin a text, too.
        if head[place:].startswith(magic) and (b"\0" in head or not magic.isalnum()):
            return meaning
    if len(head) >= 8 and not any(head):
        return "zeros: it was not written whole; fetch it again"
    one, other = head[0:64:2], head[1:64:2]
    if len(head) >= 8 and (_are_high_bytes(one, low=other) or _are_high_bytes(other, low=one)):
        return "UTF-16 without a byte-order mark, by its control bytes; convert it with iconv -f UTF-16LE -t UTF-8"
    return None


def _are_high_bytes(high: bytes, *, low: bytes) -> bool:
    """Return whether bytes are like the high ones of UTF-16 up to U+1FFF: nearly all below 32, not so the low ones.

    Lines of one letter have no other controls than those of text; the head of a tar archive has zeros everywhere.
    """
    controls = [byte for byte in high if byte < 32]
    told = any(byte not in b"\t\n\r" for byte in controls)
    return told and len(controls) >= 0.9 * len(high) and low.count(0) <= len(low) / 2


def _decompressor(head: bytes) -> Callable[[Readable], Iterator[bytes]] | None:
    if head.startswith(b"\x1f\x8b"):
        return _decompress_gzip
    if head.startswith(b"\xfd7zXZ\x00"):
        return lambda file: _decompress_streams(file, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ))
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return lambda file: _decompress_streams(file, bz2.BZ2Decompressor)
    # A frame, or a skippable one before it (RFC 8878, section 3.1).
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return lambda file: _decompress_zst(iter(partial(file.read, _ZST_READ_BYTES), b""))
    return None


def _decompress(file: Readable, head: bytes) -> Iterator[bytes]:
    decompress = _decompressor(head)
    return decompress(file) if decompress else iter(partial(file.read, _READ_BYTES), b"")


def _decompress_gzip(file: Readable) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=cast(BinaryIO, file)) as stream:
        yield from iter(partial(stream.read1, _READ_BYTES), b"")


def _decompress_streams(
    file: Readable, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """Decompress stream after stream; unlike BZ2File and LZMAFile, do not take a damaged one for the end."""
    stream = new()
    for chunk in iter(partial(file.read, _READ_BYTES), b""):
        rest = chunk
        while rest:
            if stream.eof:
                rest = rest.lstrip(b"\0")  # streams may be padded with zeros
                if not rest:
                    break
                stream = new()
            yield from _decompress_all(stream, rest)
            rest = stream.unused_data
    if not stream.eof:
        raise EOFError("the last stream breaks off")


def _decompress_all(stream: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes) -> Iterator[bytes]:
    try:
        yield stream.decompress(data, _READ_BYTES)
        while not (stream.eof or stream.needs_input):
            yield stream.decompress(b"", _READ_BYTES)
    except OSError as error:  # of bz2: "Invalid data stream"
        raise EOFError(str(error)) from error


def _decompress_zst(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress frame after frame; unlike zstandard's own readers, notice a last frame that breaks off."""
    # Some corpora are written with `zstd --long=31`, which the library refuses unless told so.
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame = decompressor.decompressobj()
    for chunk in chunks:
        rest = chunk
        while rest:
            frame = decompressor.decompressobj() if frame.eof else frame
            yield frame.decompress(rest)
            rest = frame.unused_data
    if not frame.eof:
        raise EOFError("the last zstd frame breaks off")


def _to_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Take a byte-order mark away; one of UTF-16 makes the rest be converted."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= len(BOM):
            break
    encoding = _UTF_16.get(first[:2])
    if encoding is None:
        yield first.removeprefix(BOM)
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    yield decoder.decode(first[2:]).encode()
    for chunk in chunks:
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield each line without `\n` or `\r\n`; memory is bounded by the longest line.

    A text that has none of these in its first megabyte, and `\r`, has that for its line ends, as on early Macs.
    """
    pieces: list[bytes] = []
    for chunk in _with_line_feeds(iter(chunks)):
        first, *more = chunk.split(b"\n")
        pieces.append(first)
        for piece in more:
            yield b"".join(pieces).removesuffix(b"\r")
            pieces = [piece]
    if last := b"".join(pieces):
        yield last.removesuffix(b"\r")


def _with_line_feeds(chunks: Iterator[bytes]) -> Iterator[bytes]:
    ahead, size, is_mac = list[bytes](), 0, False
    for chunk in chunks:
        ahead.append(chunk)
        size += len(chunk)
        is_mac = is_mac or b"\r" in chunk
        if b"\n" in chunk or size >= _LINE_END_BYTES:
            break
    is_mac = is_mac and not any(b"\n" in chunk for chunk in ahead)
    whole = chain(ahead, chunks)
    yield from (chunk.replace(b"\r", b"\n") for chunk in whole) if is_mac else whole
