"""Read a tokenizer.json of any kind, Concord's or a foreign one: list its pieces, encode texts with it."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer.encoder import parse_tokenizer
from data_prep.tokenizer.pieces import (
    Pieces,
    byte_level_bytes,
    read_settings,
    read_special_pieces,
    without_prefix_space,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_pieces(directory: Path) -> Pieces:
    """Read the pieces of the tokenizer.json in `directory`, of any kind that the tokenizers library loads.

    Raises UserError if the library cannot load it.
    """
    tokenizer, settings = _load_tokenizer(directory)
    decoder = json.dumps(settings.get("decoder"))
    roles, added = _find_roles(directory, tokenizer, settings), tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special} | set(roles.values())
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    texts: list[bytes | None] = [None] * (max(pieces) + 1)
    byte_ids: dict[int, int] = {}
    for number in pieces.keys() - special:
        piece = pieces[number]
        if number in added:
            texts[number] = added[number].content.encode()
        elif '"ByteLevel"' in decoder:
            texts[number] = text = byte_level_bytes(piece)
            byte_ids |= {text[0]: number} if len(text) == 1 else {}
        elif '"ByteFallback"' in decoder and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            byte_ids[int(piece[3:5], 16)] = number
        else:
            texts[number] = _decode_piece(tokenizer, piece)
    return Pieces(texts, byte_ids, roles, {pieces[number]: number for number in special & pieces.keys()})


def encode_inside_line(directory: Path, texts: list[str]) -> list[list[int]]:
    """Encode each text with the tokenizer.json in `directory` as if other text stood before it.

    The ids hold no special and no unknown piece. Raises UserError if the library cannot load the file.
    """
    tokenizer, settings = _load_tokenizer(directory)
    unknown = _find_roles(directory, tokenizer, settings).get("unk")
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [[number for number in text.ids if number != unknown] for text in encoded]


def _load_tokenizer(directory: Path) -> "tuple[Tokenizer, dict[str, Any]]":
    """Load the tokenizer so that it adds no prefix space, truncation or padding; return it with its settings."""
    path = directory / "tokenizer.json"
    settings = without_prefix_space(read_settings(path))
    return parse_tokenizer(json.dumps(settings), path), settings


def _find_roles(directory: Path, tokenizer: "Tokenizer", settings: dict[str, Any]) -> dict[str, int]:
    """Find the ids of the special pieces by role; files beside tokenizer.json overrule its model's `unk_token`."""
    unknown = settings["model"].get("unk_token")
    named = ({"unk": unknown} if unknown else {}) | read_special_pieces(directory)
    ids = {role: tokenizer.token_to_id(piece) if isinstance(piece, str) else piece for role, piece in named.items()}
    return {role: number for role, number in ids.items() if number is not None}


def _decode_piece(tokenizer: "Tokenizer", piece: str) -> bytes:
    """Decode a piece by the tokenizer's own decoder, after a letter: decoders strip the space that begins a text."""
    return (tokenizer.decoder.decode(["a", piece]).removeprefix("a") if tokenizer.decoder else piece).encode()
