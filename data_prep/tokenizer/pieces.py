"""The settings files of a Hugging Face tokenizer, read as plain JSON: byte pieces, special pieces, prefix spaces."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage.errors import error_class
from configs.base import UserError
from configs.text import one_line

ROLES = ("eos", "pad", "unk")


@dataclass(frozen=True)
class Pieces:
    """What the ids of a tokenizer stand for, whatever its kind."""

    texts: list[bytes | None]
    """By id, the bytes that the piece writes: UTF-8, or a part of a character; None for a special piece, a
    `<0x41>` piece (see `byte_ids`) and an id without a piece."""

    byte_ids: dict[int, int]
    """Byte -> id of the piece that writes it alone, in tokenizers that can write any byte."""

    roles: dict[str, int]
    """Role (one of `ROLES`) -> id of the special piece; a role that the tokenizer lacks is missing."""

    special: dict[str, int]
    """Special piece -> id, those with a role included."""


def read_settings(path: Path) -> dict[str, Any]:
    """Return the content of one of a tokenizer's files. Raises UserError if it is not a JSON object."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_class(error)(f"{path} cannot be read ({one_line(error)}); fetch it again") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings of a tokenizer; fetch it again")
    return settings


def without_prefix_space(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a tokenizer changed so that it puts no space before a text."""
    parts = {name: _without_prefix_space(settings.get(name)) for name in ("normalizer", "pre_tokenizer", "decoder")}
    return settings | parts


def _without_prefix_space(part: Any) -> Any:
    match part:
        case {"type": "Prepend"}:
            return None
        case dict():
            never = {"prepend_scheme": "never", "add_prefix_space": False}
            return {key: never[key] if key in never else _without_prefix_space(value) for key, value in part.items()}
        case list():
            return [kept for kept in map(_without_prefix_space, part) if kept is not None]
    return part


def read_special_pieces(directory: Path) -> dict[str, str | int]:
    """Read each role's piece, or its id where only an id is given, from the files beside tokenizer.json."""
    known: dict[str, Any] = {}
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        known |= read_settings(directory / name) if (directory / name).is_file() else {}
    found: dict[str, str | int] = {}
    for role in ROLES:
        match known.get(f"{role}_token"), known.get(f"{role}_token_id"):
            case (str() as piece, _) | ({"content": str() as piece}, _):
                found[role] = piece
            case (_, int() as number) | (_, [int() as number, *_]):
                found[role] = number
    return found


def byte_level_bytes(piece: str) -> bytes:
    """Return the bytes that a piece of a byte-level tokenizer (GPT-2, Llama 3) writes."""
    return b"".join(_BYTES.get(character) or character.encode() for character in piece)


def _byte_alphabet() -> dict[str, bytes]:
    """Map characters to bytes as byte-level tokenizers do: a byte is its Latin-1 character if that is visible, else one
    from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(0x100) if byte not in visible]
    characters = {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    return {character: bytes([byte]) for byte, character in characters.items()}


_BYTES = _byte_alphabet()
