"""The body of an HTTP answer as a web archive keeps it: chunks joined, compression undone, characters decoded."""

import codecs
import zlib
from collections.abc import Callable

import zstandard

MAX_BODY_BYTES = 1 << 26
"""A page that is larger, as it is kept or decompressed, is unreadable."""

_MAX_CHUNK_HEADER = 1000


class BodyError(Exception):
    """A body that gives no text, for a short fixed reason and a detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def decode_body(data: bytes, *, transfer: str, content: str, is_cut: bool) -> bytes:
    """Return a body without the encodings that its headers declare; many archives keep it without them already.

    `transfer` and `content` are the values of Transfer-Encoding and Content-Encoding. With `is_cut` the archive says
    that it kept the beginning alone. Raises BodyError if it is damaged, too large, or in an encoding not known here.
    """
    if "chunked" in transfer.lower():
        data = _join_chunks(data, is_cut=is_cut)
    for name in reversed([name.strip().lower() for name in content.split(",") if name.strip()]):
        if name != "identity" and data:
            data = _undo(name, data, is_cut=is_cut)
    return data


def decode_text(data: bytes, charset: str, *, is_cut: bool = False, errors_per_mille: int = 0) -> str | None:
    """Return text in the character set of its header, in UTF-8 if that is not known; None if it does not decode.

    With `is_cut` it may end in the middle of a character. So many bytes in a thousand that do not decode become U+FFFD,
    as browsers show them; of more the character set is another.
    """
    from resiliparse.parse.encoding import map_encoding_to_html5

    declared = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    codecs_to_try = tuple(dict.fromkeys((declared or "utf-8", "utf-8")))
    for codec in codecs_to_try:
        try:
            return codecs.getincrementaldecoder(codec)().decode(data, final=not is_cut).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError):
            continue
    for codec in codecs_to_try if errors_per_mille else ():
        text = data.decode(codec, errors="replace").removeprefix("\ufeff")
        if text.count("\ufffd") * 1000 <= errors_per_mille * len(text):
            return text
    return None


def _join_chunks(data: bytes, *, is_cut: bool) -> bytes:
    """Join what is in chunks (RFC 9112, section 7.1); what does not begin like a chunk has been joined before."""
    pieces, place = list[bytes](), 0
    while place < len(data):
        end = data.find(b"\r\n", place, place + _MAX_CHUNK_HEADER)
        try:
            size = int(data[place:end].partition(b";")[0], 16) if end >= 0 else -1
        except ValueError:
            size = -1
        if size == 0:
            return b"".join(pieces)
        if size < 0:
            if not place:
                return data
            break
        pieces.append(data[end + 2 : end + 2 + size])
        place = end + 2 + size + 2
    if not is_cut:
        raise BodyError("damaged", "its chunks break off")
    return b"".join(pieces)


def _undo(name: str, data: bytes, *, is_cut: bool) -> bytes:
    if name in ("gzip", "x-gzip"):
        return _inflate(data, 16 + zlib.MAX_WBITS, is_cut) if data.startswith(b"\x1f\x8b") else data
    if name == "deflate":  # with the header of zlib, or bare
        has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
        return _unless_text(data, lambda: _inflate(data, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, is_cut))
    if name == "zstd":
        return _decompress_zstd(data, is_cut) if data.startswith(b"\x28\xb5\x2f\xfd") else data
    if name == "br":
        return _unless_text(data, lambda: _decompress_brotli(data, is_cut))
    raise BodyError("unknown_encoding", f"Content-Encoding: {name}")


def _unless_text(data: bytes, decompress: Callable[[], bytes]) -> bytes:
    """Decompress what has no magic bytes; if it is none, and is text, it has been decompressed before."""
    try:
        return decompress()
    except BodyError:
        if data[:512].lstrip()[:1] == b"<" or data[:512].isascii():
            return data
        raise


def _inflate(data: bytes, window: int, is_cut: bool) -> bytes:
    """Decompress member after member; zeros may follow the last."""
    pieces, size, rest, is_whole = list[bytes](), 0, data, False
    try:
        while rest and size <= MAX_BODY_BYTES:
            stream = zlib.decompressobj(window)
            pieces.append(stream.decompress(rest, MAX_BODY_BYTES + 1 - size))
            size, is_whole = size + len(pieces[-1]), stream.eof
            rest = stream.unused_data.lstrip(b"\0") if stream.eof else b""
    except zlib.error as error:
        raise BodyError("damaged", str(error)) from error
    return _check(b"".join(pieces), is_whole=is_whole, is_cut=is_cut)


def _decompress_zstd(data: bytes, is_cut: bool) -> bytes:
    """Decompress frame after frame."""
    pieces, size = list[bytes](), 0
    decompressor = zstandard.ZstdDecompressor()
    stream = decompressor.decompressobj()
    try:
        for start in range(0, len(data), 4096):  # which makes 128 MiB at most
            rest = data[start : start + 4096]
            while rest and size <= MAX_BODY_BYTES:
                stream = decompressor.decompressobj() if stream.eof else stream
                pieces.append(stream.decompress(rest))
                size += len(pieces[-1])
                rest = stream.unused_data
    except zstandard.ZstdError as error:
        raise BodyError("damaged", str(error)) from error
    return _check(b"".join(pieces), is_whole=stream.eof, is_cut=is_cut)


def _decompress_brotli(data: bytes, is_cut: bool) -> bytes:
    try:
        import brotli
    except ImportError as error:
        raise BodyError("unknown_encoding", "Content-Encoding: br; pip install 'concord-train[web]'") from error
    pieces, size, stream = list[bytes](), 0, brotli.Decompressor()
    try:
        for start in range(0, len(data), 4096):
            pieces.append(stream.process(data[start : start + 4096]))
            size += len(pieces[-1])
            if stream.is_finished() or size > MAX_BODY_BYTES:
                break
    except brotli.error as error:
        raise BodyError("damaged", str(error)) from error
    return _check(b"".join(pieces), is_whole=stream.is_finished(), is_cut=is_cut)


def _check(found: bytes, *, is_whole: bool, is_cut: bool) -> bytes:
    if len(found) > MAX_BODY_BYTES:
        raise BodyError("too_large", f"it has more than {MAX_BODY_BYTES >> 20} MiB")
    if not (is_whole or is_cut):
        raise BodyError("damaged", "its compressed body breaks off")
    return found
